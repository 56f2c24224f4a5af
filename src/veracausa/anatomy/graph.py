"""Writers and readers: a decoder as a graph over its residual stream.

Writers add to the stream: `input` (the embeddings), every head, every MLP. Readers look at it: each head's query, each
key/value head's key and value, each MLP, the `logits`. An edge writer → reader exists where the writer comes earlier in
the stream. Order is stated, not assumed: what block l's attention reads lies at place 2l, what its MLP reads at 2l + 1,
or at 2l where attention and MLP stand in parallel; a head of block l writes behind place 2l, an MLP behind 2l + 1, so
`writer.order ≤ reader.order` says that the reader sees the writer.

Names are those of the field's exchange format (EAP-IG, MIB), with keys and values counted by key/value head:
`input->a0.h0<q>`, `a9.h6->m10`, `a3.h1->a20.kv0<k>`, `m29->logits`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from veracausa.arguments import shown
from veracausa.errors import UnitError

#: Kinds of readers, by their code in `Graph.reader_kind`.
READERS = ("q", "k", "v", "mlp", "logits")
Q, K, V, MLP, LOGITS = range(5)
#: Kinds of writers, by their code in `Graph.writer_kind`.
INPUT, HEAD, WRITER_MLP = range(3)

_NUMBER = r"(0|[1-9][0-9]*)"  # ASCII digits without leading zeros, so that a part has one name
_NAME = re.compile(rf"input|logits|[am]{_NUMBER}(\.(h|kv){_NUMBER})?(<[qkv]>)?")


@dataclass(frozen=True)
class Graph:
    """All writers, readers and edges of a decoder with these sizes.

    >>> Graph(layers=30, heads=9, kv_heads=3).size
    70651
    """

    layers: int
    heads: int
    kv_heads: int
    parallel: bool = False

    @property
    def writers(self) -> int:
        """Number of writers: the input, then layer by layer heads and MLP."""
        return 1 + self.layers * (self.heads + 1)

    @property
    def per_layer(self) -> int:
        """Readers of one block: queries, keys, values, the MLP."""
        return self.heads + 2 * self.kv_heads + 1

    @property
    def readers(self) -> int:
        """Number of readers: layer by layer queries, keys, values and MLP, then the logits."""
        return self.layers * self.per_layer + 1

    @cached_property
    def writer_layer(self) -> np.ndarray:
        """Block of each writer; −1 for the input."""
        return np.concatenate([[-1], np.repeat(np.arange(self.layers), self.heads + 1)])

    @cached_property
    def writer_kind(self) -> np.ndarray:
        """INPUT, HEAD or WRITER_MLP."""
        return np.concatenate([[INPUT], np.tile([HEAD] * self.heads + [WRITER_MLP], self.layers)])

    @cached_property
    def writer_index(self) -> np.ndarray:
        """Head of each writer; −1 for the input and MLPs."""
        return np.concatenate([[-1], np.tile([*range(self.heads), -1], self.layers)])

    @cached_property
    def reader_layer(self) -> np.ndarray:
        """Block of each reader; L for the logits."""
        return np.concatenate([np.repeat(np.arange(self.layers), self.per_layer), [self.layers]])

    @cached_property
    def reader_kind(self) -> np.ndarray:
        """Q, K, V, MLP or LOGITS."""
        block = [Q] * self.heads + [K] * self.kv_heads + [V] * self.kv_heads + [MLP]
        return np.concatenate([np.tile(block, self.layers), [LOGITS]])

    @cached_property
    def reader_index(self) -> np.ndarray:
        """Head of a query, key/value head of a key or value; −1 for MLPs and the logits."""
        block = [*range(self.heads), *range(self.kv_heads), *range(self.kv_heads), -1]
        return np.concatenate([np.tile(block, self.layers), [-1]])

    @cached_property
    def writer_order(self) -> np.ndarray:
        """Place of the stream from which on a writer is seen (see the module)."""
        behind = np.where(self.writer_kind == HEAD, 1 + self.parallel, 2)
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
        columns = zip(self.writer_layer, self.writer_kind, self.writer_index, strict=True)
        return ["input" if kind == INPUT else f"a{layer}.h{i}" if kind == HEAD else f"m{layer}"
                for layer, kind, i in columns]  # fmt: skip

    @cached_property
    def reader_names(self) -> list[str]:
        """Names of the readers."""
        names = []
        for layer, kind, i in zip(self.reader_layer, self.reader_kind, self.reader_index, strict=True):
            if kind == Q:
                names.append(f"a{layer}.h{i}<q>")
            elif kind in (K, V):
                names.append(f"a{layer}.kv{i}<{READERS[kind]}>")
            else:
                names.append("logits" if kind == LOGITS else f"m{layer}")
        return names

    def block(self, layer: int) -> BlockIndex:
        """Where one block's writers and readers stand."""
        writer, reader = 1 + layer * (self.heads + 1), layer * self.per_layer
        return BlockIndex(
            group=self.heads // self.kv_heads,
            heads=slice(writer, writer + self.heads),
            mlp=writer + self.heads,
            attention=slice(reader, reader + self.per_layer - 1),
            mlp_reader=reader + self.per_layer - 1,
        )

    def reached(self, mask: np.ndarray, shared_scale: bool = False) -> np.ndarray:
        """Which writers the input reaches through the edges of `mask` [readers, writers], one pass along the stream.

        A head is reached by its query, its key or its value; with `shared_scale` (a post-norm over all heads of a
        block) by those of its siblings, too.
        """
        reached = np.zeros(self.writers, dtype=bool)
        reached[0] = True
        for layer in range(self.layers):
            block = self.block(layer)
            fed = np.any(mask[block.attention] & reached, axis=1)
            reached[block.heads] = fed.any() if shared_scale else block.of_heads(fed)
            reached[block.mlp] = (mask[block.mlp_reader] & reached).any()
        return reached

    def leading(self, mask: np.ndarray) -> np.ndarray:
        """Which readers lead to the logits through the edges of `mask`, one pass against the stream."""
        leads = np.zeros(self.readers, dtype=bool)
        leads[-1] = True
        for layer in reversed(range(self.layers)):
            block = self.block(layer)
            leads[block.mlp_reader] = (mask[:, block.mlp] & leads).any()
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
        kinds = {
            "writer": "input, heads (a9.h6) and MLPs (m3)",
            "reader": "queries (a9.h6<q>), keys and values per key/value head (a9.kv0<k>, a9.kv0<v>), MLPs (m3) and "
            "logits",
        }
        if not _NAME.fullmatch(end):
            return f"{shown(end)} is no {what}. The {what}s are {kinds[what]}."
        return (
            f"{shown(end)} is no {what} here. The {what}s are {kinds[what]}; layers 0 … {self.layers - 1}, "
            f"{self.heads} heads, {self.kv_heads} key/value heads."
        )


@dataclass(frozen=True)
class BlockIndex:
    """Indices of one block's writers and readers; `group`: query heads of a key/value head."""

    group: int
    heads: slice
    mlp: int
    attention: slice
    mlp_reader: int

    def of_heads(self, readers: np.ndarray) -> np.ndarray:
        """For each head, whether its query, key or value (of the block's attention readers) is True."""
        heads = self.heads.stop - self.heads.start
        queries, keys, values = np.split(readers, [heads, heads + heads // self.group])
        return np.asarray(queries | np.repeat(keys | values, self.group))

    def to_readers(self, heads: np.ndarray) -> np.ndarray:
        """For each query, key and value, whether (any of) its heads is True."""
        groups = heads.reshape(-1, self.group).any(1)
        return np.concatenate([heads, groups, groups])


@lru_cache(maxsize=16)
def graph_of(layers: int, heads: int, kv_heads: int, parallel: bool) -> Graph:
    """The graph of these sizes, made once."""
    return Graph(layers, heads, kv_heads, parallel)
