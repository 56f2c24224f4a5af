"""Gates on parts of dictionaries; see `gates`.

    y ← y + Σ_u (1 − g_u) · (a_u(x′) − a_u) · W_u

a_u is what this very run's y (of a transcoder: its x) is encoded as, so a part sees what the gates before it have
changed; what no gate is on stays open.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from veracausa.engine.gates import GatedPairs
from veracausa.engine.joint import taking
from veracausa.engine.overrides import Override
from veracausa.engine.patches import activation

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.anatomy import Decoder
    from veracausa.engine.patches import Place
    from veracausa.engine.tape import Tape


@dataclass(frozen=True)
class CodedPairs(GatedPairs):
    """Pairs of one bucket under gates on parts of dictionaries of one kind: `layer` and `index` of each.

    `closed`: sites of the corrupted run, for each of the layers in order.
    """

    layer: np.ndarray
    index: np.ndarray

    @classmethod
    def on(
        cls,
        decoder: Decoder,
        place: Place,
        tape: Tape,
        clean: Int[Tensor, "examples length"],
        layer: np.ndarray,
        index: np.ndarray,
    ) -> CodedPairs:
        """What of a tape the gated runs need; `clean`: the clean prompts, whole."""
        closed = [activation(tape.corrupted, place, one) for one in np.unique(layer).tolist()]
        start, run = tape.start, tape.clean
        keys, values = ([part[:, :, :start].contiguous() for part in parts] for parts in (run.keys, run.values))
        return cls(decoder, place, tape.examples, clean[:, start:], keys, values, closed, tape.tail, layer, index)

    def mixing(self, gates: Float[Tensor, "rows units"], rows: Int[Tensor, " rows"]) -> AbstractContextManager[None]:
        """Runs inside of the pairs `rows` are under these gates, one for each part."""
        found = {}
        for layer, closed in zip(np.unique(self.layer).tolist(), self.closed, strict=True):
            code, own = self.decoder.codes[self.place, layer], np.flatnonzero(self.layer == layer)
            closing = 1 - gates[:, torch.as_tensor(own, device=gates.device)]
            if code.dictionary.map:
                taken = (closing @ code.taken(self.index[own], closing))[:, None]
            else:
                shares = gates.new_zeros(len(gates), len(code.widths))
                parts = torch.as_tensor(code.parts(self.index[own]), device=gates.device)
                taken = code.spread(shares.index_copy(1, parts, closing))[:, None]
            every = torch.arange(len(rows), device=rows.device)
            found[layer] = [Override(self.place, every, taken, lambda new=closed[rows]: new, code=code)]  # type: ignore[misc]
        return taking(self.decoder, found)
