"""From a change at one site to what a later part of the model reads there: the blocks between, and nothing behind.

A passage begins where a site's write enters the stream and ends at another site. Two ways lead from one to the other:
through all blocks between, which respond ("whole"), or by the stream alone, whatever lies between kept as it was
("direct": the reader alone sees the change, as an edge's reader does).

Everything is made of ordinary operations, so a passage carries gradients backward and forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from veracausa.choices import InteractionWay
from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.engine.guard import hooks
from veracausa.engine.patches import Place, Where, activation, enter, in_attention, output_change, sites_for, where
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, Tape
from veracausa.engine.watching import watch

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.anatomy import Decoder

#: What lies between the ends of a passage.
WAYS: dict[InteractionWay, str] = {
    "whole": "through everything between, which responds",
    "direct": "by the stream alone, all between kept as it was",
}


@dataclass(frozen=True)
class Passage:
    """From the site `source` of one layer to that of a `reader`, (place, layer) each, by one of the ways.

    >>> passage = Passage(lm.decoder, ("z", 10), ("neurons", 12), "whole")
    >>> passage.run(tape, tape.clean, example, delta)
    """

    decoder: Decoder
    source: tuple[Place, int]
    reader: tuple[Place, int]
    way: InteractionWay

    @property
    def at(self) -> Where:
        """Where the source is, and where its write enters the stream."""
        return where(self.decoder, *self.source)

    @property
    def looks(self) -> tuple[int, bool]:
        """Where the reader sees the stream: before its block, or (True) between that block's attention and its MLP."""
        place, layer = self.reader
        if place == "residual" or layer >= self.decoder.layers or self.decoder.blocks[layer].parallel:
            return layer, False
        if is_coded(place):
            return layer, self.decoder.codes[place, layer].dictionary.reads.kind in ("n", "m", "mid")
        return layer, not in_attention(place)

    @property
    def possible(self) -> bool:
        """Whether the reader comes behind the source's write."""
        return self.at.join <= self.looks

    @property
    def inside(self) -> bool:
        """Whether the reader is inside a block, which must be run to see it."""
        place, layer = self.reader
        read = self.decoder.codes[place, layer].dictionary.reads.kind == "r" if is_coded(place) else False
        return not (place == "residual" or read)

    @property
    def depth(self) -> int:
        """Blocks that a row runs."""
        first = self.looks[0] if self.way == "direct" else self.at.join[0]
        return max(0, self.reader[1] + self.inside - first)

    @property
    def sites(self) -> tuple[str, ...]:
        """What a tape must hold."""
        return tuple(dict.fromkeys((*sites_for(self.source[0]), *sites_for(self.reader[0]))))

    def run(
        self,
        tape: Tape,
        base: State,
        example: Int[Tensor, " rows"],
        delta: Float[Tensor, "rows positions source"],
        *,
        twice: bool = False,
        cost: Cost | None = None,
    ) -> Float[Tensor, "rows positions reader"]:
        """The reader's site in rows whose source's site has changed by `delta`, at all positions of the tape.

        The attention function must be `attention.SUFFIX`. `twice`: count a second product beside each run.
        """
        decoder, (place, layer) = self.decoder, self.reader
        join, whole = self._join(base, example, delta), replace(tape, tail=tape.length - tape.start)
        if not self.inside:
            stream = sweep(decoder, whole, base, [join], start=tape.start, behind=layer, backward=twice, cost=cost)
            return self._read(State(), base, stream)
        state = State(sites={site: [] for site in sites_for(place)})
        if join.order == (layer, True):  # then nothing is run in front of the MLP
            state.residual.append(base.residual[layer][example])
        one = replace(decoder, blocks=(decoder.blocks[layer],))
        with hooks(*watch(one, state, [])):
            sweep(decoder, whole, base, [join], start=tape.start, behind=layer + 1, backward=twice, cost=cost)
        return self._read(state, base, state.residual[0])

    def _join(self, base: State, example: Tensor, delta: Tensor) -> Join:
        """Where the rows enter: behind the source's write, or in front of the reader."""
        at, (layer, middle) = self.at, self.looks

        def entered() -> Tensor:
            change = output_change(self.decoder, base, at, example, 0, delta)
            return enter(self.decoder, base, at, example, 0, change)

        def in_front() -> Tensor:
            before = (base.middle if at.join[1] else base.residual)[at.join[0]][example]
            moved = (entered() - before) * self.decoder.scale_between(at.join[0], layer)
            return (base.middle if middle else base.residual)[layer][example] + moved

        if self.way == "direct":
            return Join(layer, middle, example, in_front)
        return Join(*at.join, example, entered)

    def _read(self, state: State, base: State, stream: Tensor) -> Tensor:
        """The reader's site, of what was watched in its block."""
        place, layer = self.reader

        def put(found: list[Tensor]) -> list[Tensor]:
            return [stream] * layer + found  # nothing reads what stands for earlier layers

        seen = State(put([stream]), put(state.middle), {s: put(x) for s, x in state.sites.items()}, codes=base.codes)
        return activation(seen, place, layer)
