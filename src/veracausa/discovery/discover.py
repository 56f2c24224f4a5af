"""From a task to a circuit in one call: score the edges, select, check, and evaluate on pairs that were held out.

The pairs are split; edges are scored and selected on one part, and the circuit is run on the other, so that it is not
judged by what it was fitted to. The scores get a receipt (exact effects of the strongest edges and of a random sample),
the selection its stability over bootstrap draws, and the evaluation a random ranking beside it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from veracausa.circuits.quality.curve import SIZES, require_sizes
from veracausa.circuits.selection.iterated import iterate
from veracausa.circuits.selection.learned import learn
from veracausa.circuits.selection.select import ranked_by, select
from veracausa.cost import Step, after, told
from veracausa.discovery.evaluation import measured, seen_by
from veracausa.discovery.forecast import running, scoring, timed, verifying
from veracausa.discovery.results import HELD_OUT, Discovery, stability_of
from veracausa.effects.exact import exact
from veracausa.engine.guard import borrowed
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute
from veracausa.estimates.method import Method
from veracausa.progress import announce
from veracausa.receipts.verify import verify
from veracausa.scores.scores import Scores
from veracausa.storage.files import at

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: The folder of unfinished pieces.
PIECES = "pieces"
#: Exact effects that a receipt takes where nothing else is asked for: of the strongest edges, and of a random sample.
TOP, SAMPLE = 100, 50


def discover(
    lm: Model,
    task: Task,
    *,
    method: str | Method = "eap-ig",
    edges: int = 200,
    how: str = "connected",
    by: str | None = None,
    held_out: Task | None = None,
    sizes: Sequence[float] = SIZES,
    top: int = TOP,
    sample: int = SAMPLE,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> Discovery:
    """Find the circuit of a behaviour, check its scores, and evaluate it on pairs that it was not selected on.

    Args:
        lm: the model.
        task: the prompt pairs. Without `held_out` half of them are held out (a single pair cannot be split: then the
            circuit is evaluated on it, and every output says so).
        method: what scores the edges: a method of edges ("eap", "eap-ig", "eap-gp", …), a `vc.Method`, "iterated"
            (scored anew in the shrinking circuit), "learned" (gates for all sizes, `vc.circuits.learn`), or "exact"
            (exact effects of all edges). "ifr" has no receipt.
        edges: edges asked for; pruning dead ends may leave fewer.
        how: how they are selected: "connected", "greedy", "top", "abs" or "optimal"; by: see `vc.select`.
        by: see `vc.select`.
        held_out: other pairs to evaluate on; then all of `task` is selected on.
        sizes: shares of the edges at which the ranking's curve is taken.
        top: exact effects of this many of the strongest edges by |score|,
        sample: and of this many others, drawn at random, make the receipt; both 0: the scores stay "not verified".
        seed: of the split, of the sample, of the random ranking and of the bootstrap.
        out: keep finished pieces in this folder: an interrupted call with the same arguments continues from them.
            `Discovery.save(out)` writes the rest, and the page.
        show_progress: show what it will cost, then progress bars.

    Returns:
        `Discovery`. Importances are positive where an edge supports the behaviour (−E).

    Raises:
        MethodError: unknown methods, ways of selecting, sizes, numbers of edges. GapError: no gap on either part.
        FileError: `out` holds another discovery, another command's results, or a damaged piece.
        ContractError, NumericsError, OutOfMemoryError: as for `vc.exact`.

    >>> found = vc.discover(lm, vc.tasks.ioi(lm, n=32), method="eap-ig", edges=200)
    >>> found.evaluation.circuit.f
    """
    from veracausa.discovery import files
    from veracausa.storage.environment import command, machine, versions

    began = time.monotonic()
    if how == "iterated":
        raise MethodError("how='iterated' is a way of scoring here: take method='iterated', how='top' or 'connected'.")
    by = ranked_by(how, by, edges, lm.graph.size)
    require_sizes(sizes)
    if min(top, sample, seed) < 0:
        raise MethodError(f"top={top}, sample={sample}, seed={seed}: they are 0 or more.")
    chosen, other = _parts(task, held_out, seed)
    work = _plan(lm, chosen, other, method, len(sizes), _checks(method, top, sample, lm.graph.size))
    asked = {
        "method": method if isinstance(method, str) else asdict(method),
        "edges": edges,
        "how": how,
        "by": by,
        "sizes": list(sizes),
        "top": top,
        "sample": sample,
        "seed": seed,
        "model": lm.header(),
        "selected on": {"description": chosen.describe(), "digest": chosen.digest()},
        "evaluated on": {"description": other.describe(), "digest": other.digest()},
        "version": versions()["veracausa"],
    }
    parts = {part.digest(): part for part in (chosen, other)}
    ends = {digest: lm.measure(part) for digest, part in parts.items()}
    for digest, part in parts.items():
        ends[digest].require_gap(part)
    folder = None if out is None else files.claim(at(out), asked)
    with borrowed(lm.decoder):
        work = timed(lm, chosen, work) if show_progress else work
        announce(told(work, "selecting the circuit", "drawing the page"), show_progress)
        scores = files.kept_scores(
            lm,
            ends[chosen.digest()],
            folder,
            asked,
            lambda: score(lm, chosen, method, edges, seed, folder, show_progress),
        )
        steps = [Step.done(work[0].what, work[0].kind, scores.cost)]
        announce(after(work, steps), show_progress)
        circuit = select(scores, n=edges, how=how, by=by)
        stability = stability_of(scores, edges, how, by, seed)
        receipt = None
        if _checks(method, top, sample, lm.graph.size):
            receipt = verify(
                lm, chosen, scores, top=top, sample=sample, seed=seed,
                out=folder and folder / PIECES, show_progress=show_progress,
            )  # fmt: skip
            scores = receipt.scores
            circuit = replace(circuit, settings={**circuit.settings, "verified": scores.verified})
            steps.append(Step.done(work[1].what, work[1].kind, receipt.exact.cost))
            announce(after(work, steps), show_progress)
        evaluation = measured(
            lm, HELD_OUT, other, circuit, scores, seen=seen_by(other, chosen), sizes=sizes, seed=seed,
            folder=folder and files.place(folder, HELD_OUT), now=ends[other.digest()], show_progress=show_progress,
        )  # fmt: skip
    runs = (evaluation.circuit, evaluation.curve.signed[0], evaluation.random, evaluation.random_curve.signed[0])
    steps += [Step.done(plan.what, plan.kind, one.cost) for plan, one in zip(work[-4:], runs, strict=True)]
    return Discovery(
        asked=asked,
        pairs=chosen,
        scores=scores,
        circuit=circuit,
        receipt=receipt,
        stability=stability,
        evaluation=evaluation,
        further=(),
        steps=tuple(steps),
        plan=tuple(work),
        versions=versions(),
        machine=machine(lm.device, lm.dtype),
        date=date.today().isoformat(),
        command=command(),
        seconds=time.monotonic() - began,
    )


def score(
    lm: Model, task: Task, method: str | Method, edges: int, seed: int, folder: Path | None, show_progress: bool
) -> Scores:
    """Scores of all edges by a method of edges, "iterated", "learned" or "exact"."""
    if method == "exact":
        return exact(lm, task, units="edges", out=folder and folder / PIECES, show_progress=show_progress)
    if method == "iterated":
        return iterate(lm, task, show_progress=show_progress)
    if method == "learned":
        return learn(lm, task, how="top-k", keep=edges, seed=seed, show_progress=show_progress)
    return attribute(lm, task, units="edges", method=method, show_progress=show_progress)


def _parts(task: Task, held_out: Task | None, seed: int) -> tuple[Task, Task]:
    """The pairs to select on, and those to evaluate on."""
    if held_out is not None:
        return task, held_out
    return (task, task) if len(task) == 1 else task.split(0.5, seed)


def _checks(method: str | Method, top: int, sample: int, size: int) -> int:
    """How many exact effects the receipt takes; exact scores need none, and shares of a sum have no exact effect."""
    return 0 if method in ("exact", "ifr") else min(top + sample, size)


def _plan(lm: Model, chosen: Task, other: Task, method: str | Method, sizes: int, checks: int) -> list[Step]:
    """The steps of a discovery with their costs; a MethodError for what cannot be done."""
    return [
        scoring(lm, chosen, method),
        *([verifying(lm, chosen, checks)] if checks else []),
        running(lm, other, 1, "the circuit"),
        running(lm, other, 2 * sizes, "the curve"),
        running(lm, other, 1, "a random circuit"),
        running(lm, other, sizes, "a random curve"),
    ]
