"""What merging has to know of a cell's whole work, since no item does: written down when the sweep is cut."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from veracausa.effects.exact import ExactWork
from veracausa.scores.headers import align_settings, span_settings
from veracausa.scores.scores import Scores
from veracausa.sweeps.asking import Asked, blank
from veracausa.units.at_spans import SpanUnits
from veracausa.units.groups import Groups


def facts_of(asked: Asked, frames: Path) -> dict[str, Any]:
    """The facts of a cell that is cut, as plain values; what its scores are about goes to files at `frames`.

    places: of what scores should add up to (`Asked.places`). settings: those that an ablation study's items have
    otherwise. receipt: its stage, threshold, seed, and what exact effects of all units would cost.
    """
    if asked.cell.ask == "ablation_study":
        reference = asked.whole.reference
        return {"settings": {"reference": None if reference is None else reference.describe()}}
    if not asked.in_steps:
        _kept(asked, frames)
        return {"places": asked.places()}
    _kept(asked.estimate, frames.with_name(f"{frames.name}-estimate"))
    facts: dict[str, Any] = {"places": asked.estimate.places()}
    if asked.cell.ask == "verify":
        blanked = blank(asked.lm, asked.task, asked.estimate.whole)
        work = asked.receipt(blanked)
        _kept(asked.checking(blanked), frames)
        whole = float(work.costs.sum()) + work.effects.part(work.units).beside()
        facts["receipt"] = {"stage": asdict(work.stages[0]), "tau": work.tau, "seed": work.seed, "whole": whole}
    return facts


def _kept(asked: Asked, path: Path) -> None:
    _frame(asked).save(path.with_name(f"{path.name}.safetensors"))


def _frame(asked: Asked) -> Scores:
    """Scores of a whole cell without their numbers: its units, its task, and settings that parts of it have not."""
    work = asked.whole
    named = work.units.named if isinstance(work.units, SpanUnits | Groups) else ()
    whole = blank(asked.lm, asked.task, work)
    settings = {"direction": whole.direction} | (span_settings(asked.task) if named else {})
    if not work.alone:
        settings |= align_settings(asked.task, named)
    one = {name: getattr(whole, name)[:1] for name in ("values", "clean", "corrupted")}
    return replace(whole, method="exact" if isinstance(work, ExactWork) else whole.method, settings=settings, **one)
