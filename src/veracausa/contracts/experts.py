"""What must hold of mixtures of experts: their parts add up, and a part's effect is that of a whole bare run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.effects.exact import exact
from veracausa.engine.guard import borrowed, changing, hooks
from veracausa.engine.measure import pair_ids
from veracausa.engine.readout import Readout
from veracausa.engine.recording import record

if TYPE_CHECKING:
    from veracausa.anatomy import Block
    from veracausa.anatomy.mixture import Mixture
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: What a call of a mixture's experts is given: tokens, each one's choice, and the weights.
_Given = tuple[Tensor, ...]


def experts_sum_to_their_mlp(lm: Model, task: Task) -> float:
    """M of a run whose MLPs put out what their experts add and what they give without any, against the run's own M."""
    decoder, ids = lm.decoder, pair_ids(lm, task, (0,))[0]
    with borrowed(decoder), torch.no_grad():
        state, _ = record(decoder, ids, sites=("mlp", "experts", "choice"))
        handles = []
        for layer, mixture in decoder.mixtures.items():
            block = decoder.blocks[layer]
            read = (state.residual if block.parallel else state.middle)[layer]
            with hooks(changing(mixture.experts, torch.zeros_like)):
                without = block.run_mlp(block.mlp_norm(read))
            new = state.sites["experts"][layer].sum(2) + without
            handles.append(changing(block.mlp_end, lambda out, new=new: new.view_as(out)))  # type: ignore[misc]
        with hooks(*handles):
            summed, _ = record(decoder, ids)
        read_of = Readout.of(lm, task, (0,), state)
        return float((read_of.of_state(summed) - read_of.of_state(state)).abs().max())


def experts_equal_bare_runs(lm: Model, task: Task) -> float:
    """Exact effects of some experts against whole runs, in which experts are told apart by weights of 0."""
    decoder, (clean, corrupted) = lm.decoder, pair_ids(lm, task, (0,))
    layers = sorted({min(decoder.mixtures), max(decoder.mixtures)})
    names = [f"m{layer}.e{e}" for layer in layers for e in sorted({0, lm.experts // 2, lm.experts - 1})]
    ours = exact(lm, task, units=names, show_progress=False)
    worst = 0.0
    with borrowed(decoder), torch.no_grad():
        state, _ = record(decoder, clean)
        read = Readout.of(lm, task, (0,), state)
        for unit, effect in enumerate(ours.values[0].tolist()):
            block, expert = decoder.blocks[int(ours.units.layer[unit])], int(ours.units.index[unit])
            given = _given(block, lambda: record(decoder, corrupted))
            with hooks(_swapping(block, expert, _alone(block, given, expert))):
                patched, _ = record(decoder, clean)
            worst = max(worst, abs(float(read.of_state(patched) - read.of_state(state)) - effect))
    return worst


def _given(block: Block, run: Callable[[], Any]) -> _Given:
    """What a block's experts are called with in a run."""
    found: list[_Given] = []

    def keep(_: Any, args: _Given, kwargs: dict[str, Tensor]) -> None:
        found.append((*args, *kwargs.values()))

    with hooks(_mixture(block).experts.register_forward_pre_hook(keep, with_kwargs=True)):
        run()
    return found[-1]


def _alone(block: Block, given: _Given, expert: int) -> Tensor:
    """What one expert adds to the sum of a call."""
    tokens, choice, weights = given
    found: Tensor = block.found.run(_mixture(block).experts, tokens, choice, weights * (choice == expert))
    return found


def _swapping(block: Block, expert: int, new: Tensor) -> Any:
    """A hook that puts another contribution in the place of one expert's own."""

    def swap(_: Any, args: _Given, kwargs: dict[str, Tensor], output: Tensor) -> Tensor:
        return output - _alone(block, (*args, *kwargs.values()), expert) + new

    return _mixture(block).experts.register_forward_hook(swap, with_kwargs=True)


def _mixture(block: Block) -> Mixture:
    assert block.mixture is not None
    return block.mixture
