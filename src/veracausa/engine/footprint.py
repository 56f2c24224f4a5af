"""How many bytes recordings, rows and graphs take, counted from a model's shapes; chunks and forecasts follow it.

    floats of one token in one layer: w width, h = heads · head size (g: of the keys), m neurons, H heads, n keys

    recording     2w + 2g + what its sites hold, for both prompts of a pair; keys and values of what they share thrice
    row           2w + 3m behind the MLP, or 2w + h + 2g and H · n scores twice in the attention; in one layer at once
    graph         3m + h + 2h of repeated keys and values + both norms' inputs in float32, in all layers at once; where
                  the attention is ours, H · n of the pattern, too
    writes        w float32 numbers for every writer of the graph, whatever the number of edges

The forms are those of Llama's blocks; others keep less beside their MLP. Nothing here is measured:
`benchmarks/memory.py` compares it with peaks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from veracausa.model import Model


@dataclass(frozen=True)
class Memory:
    """Bytes that a call takes at most, about, by what they are of.

    `weights`: the model's own, which are there before. `recordings`: runs that are kept, and what is told of them
    (writes). `rows`: runs of one chunk. `gradients`: what a backward pass needs, and what it gives. `scores`: results.

    >>> vc.forecast(vc.exact, lm, task).memory.beside
    """

    weights: int = 0
    recordings: int = 0
    rows: int = 0
    gradients: int = 0
    scores: int = 0

    @property
    def beside(self) -> int:
        """All but the weights."""
        return self.recordings + self.rows + self.gradients + self.scores

    def with_recordings(self, more: int) -> Memory:
        """The same, where so many bytes more are kept."""
        return replace(self, recordings=self.recordings + more)

    @property
    def parts(self) -> dict[str, int]:
        """Name → bytes."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True)
class Footprint:
    """A model's shapes, and the bytes that follow from them.

    `item`: bytes of a number, `wide`: of one that sums others. `chosen`: experts that a token goes through, if any;
    `inside`: neurons of each.

    >>> Footprint.of(lm).row(length=64)
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    neurons: int
    vocabulary: int
    writers: int
    experts: int
    chosen: int
    inside: int
    gated: bool
    channels: int
    states: int
    item: int
    wide: int

    @classmethod
    def of(cls, lm: Model) -> Footprint:
        """Those of a model; also of one without weights (on the device "meta")."""
        decoder, logits = lm.decoder, lm.decoder.unembedding.weight
        assert isinstance(logits, Tensor)
        return cls(
            decoder.layers, decoder.width, decoder.heads, decoder.kv_heads, decoder.head_dim, decoder.neurons,
            len(logits), decoder.structure.writers, decoder.experts,
            max((one.chosen for one in decoder.mixtures.values()), default=0),
            max((one.neurons for one in decoder.mixtures.values()), default=0), True, decoder.channels, decoder.states,
            lm.dtype.itemsize,
            torch.promote_types(lm.dtype, torch.float32).itemsize,
        )  # fmt: skip

    @property
    def h(self) -> int:
        """Floats of all heads' values."""
        return self.heads * self.head_dim

    @property
    def g(self) -> int:
        """Floats of all keys."""
        return self.kv_heads * self.head_dim

    @property
    def readers(self) -> int:
        """Queries, keys and values of a block."""
        return self.heads + 2 * self.kv_heads

    def held(self, sites: Collection[str], length: int = 0) -> int:
        """Floats a token that recorded sites take of each layer beside the stream, keys and values."""
        size = {
            "z": max(self.h, self.channels), "queries": self.h, "q_out": self.h, "k_out": self.g, "v_out": self.g,
            "up_out": self.neurons, "gate_out": self.neurons,
            "keys": 0, "values": 0, "mlp_beside": 0, "neurons": self.neurons, "pattern": self.heads * length,
            "experts": self.chosen * self.width, "choice": self.chosen, "router": self.experts,
            "inside": self.chosen * self.inside, "weights": self.chosen, "channels": self.channels,
            **dict.fromkeys(("mixed", "mixer_in"), self.width if self.channels else 0),
        }  # fmt: skip
        return sum(size.get(site, self.width) for site in set(sites))

    def state(self, positions: int, length: int, held: int) -> int:
        """One recorded run of a prompt of `length`, of which `positions` are run."""
        stream = (2 * self.layers + 1) * self.width + self.layers * held
        return self.item * (positions * stream + 2 * self.layers * self.g * length)

    def pair(self, positions: int, length: int, held: int) -> int:
        """Both runs of a pair, the beginning that they share, and the clean run's logits."""
        prefix = 2 * self.layers * self.g * (length - positions)
        return 2 * self.state(positions, length, held) + self.item * (prefix + self.vocabulary)

    def row(self, length: int) -> int:
        """A token of a row in one block: behind its MLP, or in the attention, whichever is more."""
        mlp = self.item * (2 * self.width + 3 * self.neurons + self.mixture(4))
        attention = self.item * (2 * self.width + self.h + 2 * self.g) + self.pattern(length)
        return max(mlp, attention, 2 * self.item * self.width + self.scan)

    def mixture(self, kept: int) -> int:
        """Floats of a token in its chosen experts: what they read and write, and so many numbers of each neuron."""
        return self.chosen * (2 * self.width + kept * self.inside)

    @property
    def scan(self) -> int:
        """A token's states in a mixer's plain scan, decays and inputs beside them, in float32 at least."""
        return self.wide * self.channels * (4 + 3 * self.states)

    def pattern(self, length: int) -> int:
        """Scores and softmax of a token's heads; half types take them in float32 and cast back."""
        return self.heads * length * (2 * self.wide + (self.item if self.item < self.wide else 0))

    def mask(self, positions: int, length: int) -> int:
        """The causal mask of a chunk, whatever its rows."""
        return self.wide * positions * length * self.heads // max(1, self.kv_heads)

    def graph(self, length: int, ours: bool = False, prefix: bool = True, since: tuple[int, bool] = (0, False)) -> int:
        """What a token's graph holds in all layers, beside the stream and recorded sites.

        `ours`: of rows under our own attention function, the last MLP of which runs at the tail alone. `prefix`:
        prompts have a shared beginning, so that the user's attention is given a mask, and keys and values head by head.
        `since`: the place, (block, middle), behind which it begins.
        """
        norm = self.width * self.wide if self.item < self.wide else 0
        attention = norm + 2 * self.h * self.item + self.scan
        if ours:
            attention += self.heads * length * (self.wide + (self.item if self.item < self.wide else 0))
        elif prefix:
            repeated = 2 * self.h if self.heads > self.kv_heads else 0
            attention += (repeated + length) * self.item
        mlp = norm + ((3 if self.gated else 2) * self.neurons + self.mixture(3)) * self.item
        blocks = self.layers - since[0]
        return (blocks - since[1]) * attention + (blocks - ours) * mlp

    def back(self, length: int, ours: bool = False) -> int:
        """What the backward pass of a token needs in one block."""
        mlp = self.item * (2 * self.width + 3 * self.neurons + self.mixture(3))
        return max(mlp, 2 * self.heads * length * self.wide) if ours else mlp

    @property
    def writes(self) -> int:
        """What all writers add at a token."""
        return self.writers * self.width * self.wide

    @property
    def read(self) -> int:
        """Gradients at the queries, keys and values of one block at a token, and what they are made of."""
        return 4 * self.readers * self.width * self.wide

    def reread(self, length: int) -> int:
        """What a token takes whose queries and keys are made anew of another stream, with all patterns."""
        given = 3 * (self.h + 2 * self.g)
        return self.item * (4 * (self.width + self.h) + given) + self.pattern(length)

    @property
    def mixed(self) -> int:
        """Inputs of the queries, keys and values of one block at a token, and their norms."""
        return self.readers * self.width * (self.wide + 2 * self.item + (self.wide if self.item < self.wide else 0))

    @property
    def told(self) -> int:
        """What gradients at what all readers have made of a token take."""
        return self.item * self.layers * (self.h + 2 * self.g + self.width)

    @property
    def circuit(self) -> int:
        """What a token of a circuit's run takes beside one block: every writer's change, and inputs of readers."""
        return self.writes + self.mixed
