"""Writers and readers: a decoder as a graph over its residual stream.

Writers add to the stream: `input` (the embeddings), every head, every MLP, every head of a mixer (or the whole mixer,
where it has none). Readers look at it: each head's query, each key/value head's key and value, each mixer as a whole,
each MLP, the `logits`. An edge writer → reader exists where the writer comes earlier in the stream. Order is stated,
not assumed: what block l's attention (or mixer) reads lies at place 2l, what its MLP reads at 2l + 1, or at 2l where
attention and MLP stand in parallel; a head of block l writes behind place 2l, an MLP behind 2l + 1, so
`writer.order ≤ reader.order` says that the reader sees the writer.

Names are those of the field's exchange format (EAP-IG, MIB), with keys and values counted by key/value head:
`input->a0.h0<q>`, `a9.h6->m10`, `a3.h1->a20.kv0<k>`, `m29->logits`; of mixers `x3.h1->x4`, or `x3->x4`.

Where the heads of a block cannot be told apart as readers, they share one, which is named by the block alone: `a2<q>`
and `a2<k>` are the queries (keys) of all heads, where one norm goes over them; `a2<kv>` are all keys and values, where
they come of one latent vector, and `a2<q>` the queries that do. Such a reader feeds every head of its block. Where
keys are values, too, each key/value head has one reader for both: `a2.kv0<kv>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from veracausa.anatomy.block_index import BlockIndex
from veracausa.arguments import shown
from veracausa.errors import UnitError

#: Kinds of readers, by their code in `Graph.reader_kind`.
READERS = ("q", "k", "v", "mlp", "logits", "mixer", "kv")
Q, K, V, MLP, LOGITS, MIXER, KV = range(7)
#: Kinds of writers, by their code in `Graph.writer_kind`.
INPUT, HEAD, WRITER_MLP, WRITER_MIXER = range(4)
#: Kinds of readers that belong to what mixes a block's positions.
MIXING = (Q, K, V, KV, MIXER)
#: Kinds of readers that the heads of a block can share.
JOINT = ("q", "k", "kv")

#: What a block of a decoder has, if nothing else is said.
_USUAL = "am"
_NUMBER = r"(0|[1-9][0-9]*)"  # ASCII digits without leading zeros, so that a part has one name
_NAME = re.compile(rf"input|logits|[amx]{_NUMBER}(\.(h|kv){_NUMBER})?(<(q|k|v|kv)>)?")


@dataclass(frozen=True, repr=False)
class Graph:
    """All writers, readers and edges of a decoder with these sizes.

    `blocks`: what each block has, in letters: `a` an attention, `x` a mixer, "ax" both side by side, `m` an MLP; none:
    all have "am".
    `mixer_heads`: writers of a mixer that are its heads; 0: a mixer is one writer. `joint`: kinds of readers that the
    heads of a block share, of `JOINT` and in that order; "kv" stands for its keys and values as one. `kv_by_block`: of
    blocks that differ in how many key/value heads they have, each one's number (`kv_heads` is the largest);
    `keys_are_values`: blocks whose keys and values are read as one, head by head.

    >>> Graph(layers=30, heads=9, kv_heads=3).size
    70651
    >>> Graph(layers=3, heads=0, kv_heads=0, blocks=("x", "x", "x")).writer_names
    ['input', 'x0', 'x1', 'x2']
    >>> Graph(layers=1, heads=4, kv_heads=2, joint=("q", "k")).reader_names
    ['a0<q>', 'a0<k>', 'a0.kv0<v>', 'a0.kv1<v>', 'm0', 'logits']
    >>> Graph(layers=1, heads=2, kv_heads=1, keys_are_values=(0,)).reader_names
    ['a0.h0<q>', 'a0.h1<q>', 'a0.kv0<kv>', 'm0', 'logits']
    """

    layers: int
    heads: int
    kv_heads: int
    parallel: bool = False
    mixer_heads: int = 0
    blocks: tuple[str, ...] = ()
    joint: tuple[str, ...] = ()
    kv_by_block: tuple[int, ...] = ()
    keys_are_values: tuple[int, ...] = ()

    @property
    def header(self) -> dict[str, Any]:
        """Its sizes, as files keep them."""
        usual: dict[str, Any] = {"layers": self.layers, "heads": self.heads}
        usual |= {"kv_heads": self.kv_heads, "parallel": self.parallel}
        usual |= {"mixer_heads": self.mixer_heads, "blocks": list(self.blocks)} if self.blocks else {}
        others = ("joint", "kv_by_block", "keys_are_values")
        return usual | {name: list(own) for name in others if (own := getattr(self, name))}

    @property
    def sizes(self) -> tuple[Any, ...]:
        """Its sizes, as hashes take them."""
        usual = (self.layers, self.heads, self.kv_heads, self.parallel)
        mixed = (self.mixer_heads, self.blocks) if self.blocks else ()
        by_block = ((self.kv_by_block, self.keys_are_values),) if self.kv_by_block or self.keys_are_values else ()
        return (*usual, *mixed, *((self.joint,) if self.joint else ()), *by_block)

    def __repr__(self) -> str:
        return f"Graph({', '.join(f'{name}={value}' for name, value in self.header.items())})"

    def kv_heads_of(self, layer: int) -> int:
        """Key/value heads of a block."""
        return self.kv_by_block[layer] if self.kv_by_block else self.kv_heads

    def share(self, layer: int) -> int:
        """Query heads of a block's key/value head."""
        return self.heads // max(1, self.kv_heads_of(layer))

    @property
    def shares_keys(self) -> bool:
        """Whether heads share keys and values."""
        return self.heads > min((*self.kv_by_block, self.kv_heads))

    @property
    def has_mixers(self) -> bool:
        """Whether some block has a mixer."""
        return any("x" in parts for parts in self.blocks)

    def attention_readers(self, layer: int) -> dict[int, int]:
        """Kind → how many there are, of the readers of a block's attention in their order."""
        count = self.kv_heads_of(layer)
        one = "kv" in self.joint or layer in self.keys_are_values
        every = {Q: self.heads, KV: count} if one else {Q: self.heads, K: count, V: count}
        return {kind: 1 if READERS[kind] in self.joint else count for kind, count in every.items()}

    @property
    def writers(self) -> int:
        """Number of writers: the input, then layer by layer heads (or the mixer's) and MLP."""
        return len(self.writer_kind)

    @property
    def readers(self) -> int:
        """Number of readers: layer by layer queries, keys, values (or the mixer) and MLP, then the logits."""
        return len(self.reader_kind)

    def parts(self, layer: int) -> str:
        """What a block has, in letters; see `blocks`."""
        return self.blocks[layer] if self.blocks else _USUAL

    def _writers_of(self, part: str, layer: int = 0) -> list[tuple[int, int]]:
        """(kind, index) of the writers of an attention, a mixer or an MLP, the same in all blocks."""
        heads: list[tuple[int, int]] = [(WRITER_MIXER, i) for i in range(self.mixer_heads)]
        return {
            "a": [(HEAD, i) for i in range(self.heads)],
            "x": heads or [(WRITER_MIXER, -1)],
            "m": [(WRITER_MLP, -1)],
        }[part]

    def _readers_of(self, part: str, layer: int) -> list[tuple[int, int]]:
        """(kind, index) of the readers of a block's attention, mixer or MLP."""
        if part != "a":
            return [(MIXER if part == "x" else MLP, -1)]
        counts = self.attention_readers(layer)
        numbers = {kind: [-1] if READERS[kind] in self.joint else [*range(n)] for kind, n in counts.items()}
        return [(kind, i) for kind, own in numbers.items() for i in own]

    def _all(self, of: Callable[[str, int], list[tuple[int, int]]]) -> list[tuple[int, int, int]]:
        """(layer, kind, index) of the writers or readers of all blocks."""
        return [(layer, *one) for layer in range(self.layers) for part in self.parts(layer) for one in of(part, layer)]

    @cached_property
    def _writing(self) -> np.ndarray:
        return np.array([(-1, INPUT, -1), *self._all(self._writers_of)]).T

    @cached_property
    def _reading(self) -> np.ndarray:
        return np.array([*self._all(self._readers_of), (self.layers, LOGITS, -1)]).T

    @property
    def writer_layer(self) -> np.ndarray:
        """Block of each writer; −1 for the input."""
        return np.asarray(self._writing[0])

    @property
    def writer_kind(self) -> np.ndarray:
        """INPUT, HEAD, WRITER_MLP or WRITER_MIXER."""
        return np.asarray(self._writing[1])

    @property
    def writer_index(self) -> np.ndarray:
        """Head of each writer; −1 for the input, MLPs and whole mixers."""
        return np.asarray(self._writing[2])

    @property
    def reader_layer(self) -> np.ndarray:
        """Block of each reader; L for the logits."""
        return np.asarray(self._reading[0])

    @property
    def reader_kind(self) -> np.ndarray:
        """Q, K, V, MLP, LOGITS, MIXER or KV."""
        return np.asarray(self._reading[1])

    @property
    def reader_index(self) -> np.ndarray:
        """Head of a query, key/value head of a key or value; −1 for those of all heads, mixers, MLPs and the logits."""
        return np.asarray(self._reading[2])

    @cached_property
    def writer_order(self) -> np.ndarray:
        """Place of the stream from which on a writer is seen (see the module)."""
        behind = np.where(self.writer_kind == WRITER_MLP, 2, 1 + self.parallel)
        return np.where(self.writer_layer < 0, 0, 2 * self.writer_layer + behind)

    @cached_property
    def reader_order(self) -> np.ndarray:
        """Place of the stream that a reader looks at."""
        return 2 * self.reader_layer + ((self.reader_kind == MLP) & (not self.parallel))

    @property
    def size(self) -> int:
        """Number of edges."""
        return len(self.edges[0])

    @cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """(writer, reader) of every edge, reader by reader along the stream."""
        writer = [np.flatnonzero(self.writer_order <= order) for order in self.reader_order]
        reader = [np.full(len(seen), r) for r, seen in enumerate(writer)]
        return np.concatenate(writer), np.concatenate(reader)

    @cached_property
    def writer_names(self) -> list[str]:
        """Names of the writers."""
        names = []
        for layer, kind, i in zip(self.writer_layer, self.writer_kind, self.writer_index, strict=True):
            if kind in (HEAD, WRITER_MIXER):
                stem = f"{'a' if kind == HEAD else 'x'}{layer}"
                names.append(stem if i < 0 else f"{stem}.h{i}")
            else:
                names.append("input" if kind == INPUT else f"m{layer}")
        return names

    @cached_property
    def reader_names(self) -> list[str]:
        """Names of the readers."""
        names = []
        for layer, kind, i in zip(self.reader_layer, self.reader_kind, self.reader_index, strict=True):
            if kind in (Q, K, V, KV):
                head = "" if i < 0 else f".h{i}" if kind == Q else f".kv{i}"
                names.append(f"a{layer}{head}<{READERS[kind]}>")
            else:
                names.append("logits" if kind == LOGITS else f"{'m' if kind == MLP else 'x'}{layer}")
        return names

    def block(self, layer: int) -> BlockIndex:
        """Where one block's writers and readers stand."""
        return self._blocks[layer]

    @cached_property
    def _blocks(self) -> tuple[BlockIndex, ...]:
        found, writer, reader = [], 1, 0
        for layer in range(self.layers):
            parts = self.parts(layer)
            own = tuple(self._mixing(part, layer) for part in parts if part != "m")
            heads, reads, mlp = sum(one[1] for one in own), sum(sum(one[2]) for one in own), int("m" in parts)
            found.append(
                BlockIndex(
                    parts=own,
                    heads=slice(writer, writer + heads),
                    mlp=slice(writer + heads, writer + heads + mlp),
                    attention=slice(reader, reader + reads),
                    mlp_reader=slice(reader + reads, reader + reads + mlp),
                )
            )
            writer, reader = writer + heads + mlp, reader + reads + mlp
        return tuple(found)

    def _mixing(self, part: str, layer: int) -> tuple[str, int, tuple[int, ...]]:
        """See `BlockIndex.parts`."""
        counts = tuple(self.attention_readers(layer).values()) if part == "a" else (1,)
        return {"a": "attention", "x": "mixer"}[part], len(self._writers_of(part)), counts

    @cached_property
    def reader_group(self) -> np.ndarray:
        """First of the readers that see what each reader sees: of its block's attention (mixer), its MLP, the logits.

        (Attention and MLP of a parallel block are told apart.)
        """
        found = np.arange(self.readers)
        for block in self._blocks:
            found[block.attention] = block.attention.start
        return found

    def reached(self, mask: np.ndarray, shared_scale: bool = False) -> np.ndarray:
        """Which writers the input reaches through the edges of `mask` [readers, writers], one pass along the stream.

        A head is reached by its query, its key or its value, all heads by a reader that they share; with `shared_scale`
        (a post-norm over all heads of a block) by those of its siblings, too. A mixer's heads are reached by the mixer.
        """
        reached = np.zeros(self.writers, dtype=bool)
        reached[0] = True
        for layer in range(self.layers):
            block = self.block(layer)
            fed = np.any(mask[block.attention] & reached, axis=1)
            reached[block.heads] = fed.any() if shared_scale else block.of_heads(fed)
            reached[block.mlp] = np.any(mask[block.mlp_reader] & reached, axis=1)
        return reached

    def leading(self, mask: np.ndarray) -> np.ndarray:
        """Which readers lead to the logits through the edges of `mask`, one pass against the stream."""
        leads = np.zeros(self.readers, dtype=bool)
        leads[-1] = True
        for layer in reversed(range(self.layers)):
            block = self.block(layer)
            leads[block.mlp_reader] = np.any(mask[:, block.mlp] & leads[:, None], axis=0)
            leads[block.attention] = block.to_readers(np.any(mask[:, block.heads] & leads[:, None], axis=0))
        return leads

    def sees(self, reader: int, writer: int) -> bool:
        """Whether there is an edge from the writer to the reader."""
        return bool(self.writer_order[writer] <= self.reader_order[reader])

    def parse(self, name: str) -> tuple[int, int]:
        """(writer, reader) of an edge's name.

        Raises:
            UnitError: no such writer or reader here, or the writer does not come before the reader.
        """
        first, arrow, second = name.partition("->") if isinstance(name, str) else ("", "", "")
        if not arrow:
            raise UnitError(f"{shown(name)} is not the name of an edge. Edges look like a9.h6->m10 or input->a0.h0<q>.")
        ends = []
        for end, known, what in ((first, self._writers, "writer"), (second, self._readers, "reader")):
            if end not in known:
                raise UnitError(f"{shown(name)}: {self._why(end, what)}")
            ends.append(known[end])
        if not self.sees(ends[1], ends[0]):
            raise UnitError(f"{name!r} cannot exist: {first} writes to the stream only behind what {second} reads.")
        return ends[0], ends[1]

    @cached_property
    def _writers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.writer_names)}

    @cached_property
    def _readers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.reader_names)}

    def _why(self, end: str, what: str) -> str:
        mixers = ("mixers' heads (x4.h2), " if self.mixer_heads else "mixers (x4), ") if self.has_mixers else ""
        reading = "mixers (x4), " if mixers else ""
        kinds = {
            "writer": f"input, heads (a9.h6){', ' + mixers if mixers else ' and '}MLPs (m3)",
            "reader": f"{self.attention_words}, {reading}MLPs (m3) and logits",
        }
        if not _NAME.fullmatch(end):
            return f"{shown(end)} is no {what}. The {what}s are {kinds[what]}."
        return (
            f"{shown(end)} is no {what} here. The {what}s are {kinds[what]}; layers 0 … {self.layers - 1}, "
            f"{self.heads} heads, {self.kv_heads} key/value heads{' at most' if self.kv_by_block else ''}."
        )

    @property
    def attention_words(self) -> str:
        """What reads in its attentions, with names of examples."""
        queries = "queries of all heads (a9<q>)" if "q" in self.joint else "queries (a9.h6<q>)"
        if "kv" in self.joint:
            return f"{queries}, keys and values of all heads (a9<kv>)"
        if "k" in self.joint:
            return f"{queries}, keys of all heads (a9<k>), values per key/value head (a9.kv0<v>)"
        if self.keys_are_values:
            these = ", ".join(map(str, self.keys_are_values))
            one = f"where keys are values, in blocks {these}, as one (a{self.keys_are_values[0]}.kv0<kv>)"
            return f"{queries}, keys and values per key/value head (a9.kv0<k>, a9.kv0<v>; {one})"
        return f"{queries}, keys and values per key/value head (a9.kv0<k>, a9.kv0<v>)"


def of_projection(kind: int) -> int:
    """By which of an attention's three projections, Q, K or V, a kind of readers takes its input from the stream."""
    return K if kind == KV else kind


@lru_cache(maxsize=16)
def graph_of(
    layers: int,
    heads: int,
    kv_heads: int,
    parallel: bool,
    mixer_heads: int = 0,
    blocks: tuple[str, ...] = (),
    joint: tuple[str, ...] = (),
    kv_by_block: tuple[int, ...] = (),
    keys_are_values: tuple[int, ...] = (),
) -> Graph:
    """The graph of these sizes, made once."""
    return Graph(layers, heads, kv_heads, parallel, mixer_heads, blocks, joint, kv_by_block, keys_are_values)
