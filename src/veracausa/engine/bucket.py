"""What is the same for every recorded bucket of pairs: its unpatched metric, held against the bare model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.memory import memory_errors
from veracausa.engine.readout import Readout
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.tape import State, Tape
from veracausa.engine.validate import require_run

if TYPE_CHECKING:
    from veracausa.model import Model


def unpatched_metric(lm: Model, tape: Tape, base: State, read: Readout, cost: Cost) -> Tensor:
    """M of the engine's run without a patch, checked against the bare model's; effects are differences from it."""
    example = torch.arange(len(tape.examples), device=lm.device)
    whole = Join(0, False, example, lambda: base.residual[0])
    with memory_errors(f"The unpatched run of {len(example)} prompts"):
        ours = read(sweep(lm.decoder, tape, base, [whole], start=tape.start, cost=cost), example)
        require_run(lm, ours, read.of_state(base), tape.clean)
    return ours
