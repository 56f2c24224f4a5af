"""The comparison study: exact effects against gradient estimates, on one or several tasks.

For each task: exact effects of all heads and all MLPs; estimates of the same; neurons: all of them estimated, and exact
for the strongest by `atp` and a uniform sample of the rest (or all). Then agreement, outliers, the outliers' curves
M(α), and a summary in plain words that is written from these numbers.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from veracausa import __version__
from veracausa.attribution.curves import curves
from veracausa.attribution.estimate import attribute
from veracausa.attribution.exact import exact
from veracausa.attribution.files import load_scores
from veracausa.attribution.masks import learn_mask
from veracausa.attribution.scores import Scores
from veracausa.attribution.units import Units, all_units
from veracausa.comparison.agreement import label
from veracausa.comparison.results import Curve, Panel, Section, Study
from veracausa.comparison.summary import called, cause, summarise
from veracausa.engine.guard import borrowed
from veracausa.errors import TaskError

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

ALPHAS = np.linspace(-0.5, 1.5, 21)


def study(
    lm: Model,
    task: Task | Sequence[Task],
    *,
    neurons: int | None = 500,
    sample: int = 300,
    nodes: int = 5,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Study:
    """How well do gradient estimates agree with exact effects on this behaviour, and where do they fail?

    Args:
        lm: the model.
        task: one task, or several: each becomes a section of the report.
        neurons: exact effects of this many neurons, the strongest by `atp`; None: of all neurons of tasks with a
            single pair.
        sample: exact effects of this many more neurons, drawn at random among the rest.
        nodes: points on the paths of integrated gradients towards the corrupted values (16 towards zero).
        seed: for the random sample.
        out: keep finished pieces here, so that an interrupted study continues; `Study.save(out)` writes the report.
        show_progress: show progress bars.

    >>> vc.study(lm, task).save("out/")
    """
    began = time.monotonic()
    tasks = list(task) if isinstance(task, Sequence) else [task]
    if not tasks:
        raise TaskError("The study has no task. Give at least one, e.g. vc.tasks.ioi(lm).")
    pieces = None if out is None else Path(out) / "pieces"
    with borrowed(lm.decoder):
        sections = tuple(
            _section(lm, one, neurons=neurons, sample=sample, nodes=nodes, seed=seed, pieces=pieces, show=show_progress)
            for one in tasks
        )
    return Study(
        title=f"Exact effects against gradient estimates: {tasks[-1].name} on {lm.name}",
        model={"name": lm.name, "source": lm.source, "identity": lm.identity},
        sections=sections,
        summary=summarise(lm, sections),
        versions=versions(),
        machine=machine(lm),
        date=date.today().isoformat(),
        command=command(),
        seconds=time.monotonic() - began,
    )


def _section(
    lm: Model,
    task: Task,
    *,
    neurons: int | None,
    sample: int,
    nodes: int,
    seed: int,
    pieces: Path | None,
    show: bool,
) -> Section:
    single = len(task) == 1

    def tested(units: str | Units) -> Scores:
        return exact(lm, task, units=units, out=pieces, show_progress=show)

    def estimated(kind: str, *, ig: bool = True) -> tuple[Scores, ...]:
        wanted: list[tuple[str, dict[str, Any]]] = [("atp", {})]
        if ig:
            wanted.append(("ig", {"nodes": nodes}))
        if single and kind != "mlps":  # towards zero, an MLP and its neurons take one path: shown once
            wanted.append(("ig", {"nodes": 16, "baseline": "zero"}))
        return tuple(kept(lm, task, kind, method, parts, pieces, show) for method, parts in wanted)

    heads = Panel("heads", tested("heads"), estimated("heads"))
    # An MLP is its layer's whole site, so its integrated gradients are its exact effect: shown once, not paid again.
    mlps = Panel("mlps", tested("mlps"), estimated("mlps", ig=single))
    guesses = estimated("neurons")
    strongest = 500 if neurons is None and not single else neurons
    chosen, drawn = choose_neurons(lm, guesses[0], strongest, sample, seed)
    panels = (heads, mlps, Panel("neurons", tested(chosen), guesses, sampled=drawn))
    return Section(
        title=called(task)[0].upper() + called(task)[1:],
        task=task,
        measured=lm.measure(task),
        panels=panels,
        curves=_curves(lm, task, heads, show),
    )


def kept(
    lm: Model, task: Task, kind: str, method: str, parts: dict[str, Any], pieces: Path | None, show: bool
) -> Scores:
    """An estimate, read from `pieces` if an earlier run of the same study finished it there."""

    def compute() -> Scores:
        if method == "mask":
            return learn_mask(lm, task, units=kind, show_progress=show, **parts)
        return attribute(lm, task, units=kind, method=method, show_progress=show, **parts)

    if pieces is None:
        return compute()
    key = json.dumps([lm.identity, task.digest(), kind, method, parts, __version__], sort_keys=True)
    path = pieces / f"{method}-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if path.exists():
        return load_scores(path)
    scores = compute()
    scores.save(path)
    return scores


def choose_neurons(lm: Model, guess: Scores, strongest: int | None, sample: int, seed: int) -> tuple[Units, int]:
    """Which neurons get exact effects: the strongest by `guess`, then a uniform sample of the rest; and its size.

    All neurons, and 0, if `strongest` is None or covers all.
    """
    every = all_units(lm, "neurons")
    if strongest is None or strongest >= len(every):
        return every, 0
    ranking = np.array(guess.ranking())
    rest = ranking[strongest:]
    drawn = np.random.default_rng(seed).choice(rest, size=min(sample, len(rest)), replace=False)
    return every[np.concatenate([ranking[:strongest], np.sort(drawn)])], len(drawn)


def _curves(lm: Model, task: Task, heads: Panel, show: bool, most: int = 6) -> tuple[Curve, ...]:
    """Curves of the heads on which `atp` is farthest from the exact effect."""
    worst = heads.agreements[0].outliers[:most]
    if not worst:
        return ()
    gap = heads.exact.gap.mean()
    walked = curves(lm, task, units=worst, alphas=ALPHAS, show_progress=show).mean(0) / gap
    index = [heads.exact.units.find(name) for name in worst]
    exact_effects = heads.exact.normalised()
    guesses = {label(estimate): estimate.normalised() for estimate in heads.estimates}
    found = []
    for row, (name, i) in enumerate(zip(worst, index, strict=True)):
        claims = {method: float(values[i]) for method, values in guesses.items()}
        curve = Curve(name, ALPHAS, walked[row].double().numpy(), float(exact_effects[i]), claims)
        found.append(Curve(name, ALPHAS, curve.effect, curve.exact, claims, why=cause(curve)))
    return tuple(found)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import transformers

    return {
        "veracausa": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def machine(lm: Model) -> str:
    """The machine in a few words: processor, cores, precision."""
    if lm.device.type == "cuda":
        where = torch.cuda.get_device_name(lm.device)
    else:
        where = f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return f"{where}, {str(lm.dtype).removeprefix('torch.')}"


def command() -> str:
    """The command that is running, as one would type it."""
    name = Path(sys.argv[0]).name or "python"
    return shlex.join(["veracausa" if name in ("veracausa", "__main__.py") else name, *sys.argv[1:]])
