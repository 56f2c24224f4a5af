"""A discovered circuit on other pairs: the same task drawn anew, or another one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from veracausa.circuits.quality.curve import require_sizes
from veracausa.circuits.runs.ablations import require_ablation
from veracausa.cost import told
from veracausa.discovery.evaluation import Evaluation, measured, seen_by
from veracausa.discovery.files import load_discovery, place, save_discovery
from veracausa.discovery.forecast import running, timed
from veracausa.discovery.results import Discovery
from veracausa.progress import announce
from veracausa.storage.files import at

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


def evaluate(
    lm: Model,
    discovery: Discovery | str | Path,
    task: Task,
    *,
    sizes: Sequence[float] | None = None,
    ablation: str = "counterfactual",
    show_progress: bool = True,
) -> Evaluation:
    """Run a discovered circuit, the curve of its ranking and the same of a random ranking on other pairs.

    Args:
        lm: the model of the discovery.
        discovery: what `vc.discover` returned, or the folder that it was saved in: then finished pieces are kept there,
            the tables are written into a folder of their own, and the page is drawn again with a further section.
        task: the pairs; they need not be of the same task. The result says how many of them the selection saw.
        sizes: shares of the edges for the curve (None: those of the discovery).
        ablation: what edges outside the circuit carry: "counterfactual", "resample", "zero", "mean" or "optimal", see
            `vc.faithfulness`; constants are taken from these pairs. The edges were scored for the counterfactual one.
        show_progress: show what it will cost, then progress bars.

    Raises:
        CircuitError: the circuit is of another model. FileError: the folder is no finished discovery, or damaged.
        MethodError: sizes out of range, an unknown ablation.
        GapError, ContractError, NumericsError, OutOfMemoryError: as for `vc.exact`.

    >>> vc.discovery.evaluate(lm, "out/", vc.tasks.ioi(lm, n=16, seed=7)).circuit.f
    """
    folder = None if isinstance(discovery, Discovery) else at(discovery)
    found = discovery if isinstance(discovery, Discovery) else load_discovery(discovery)
    found.circuit.require_for(lm)
    sizes = found.evaluation.curve.sizes if sizes is None else tuple(sizes)
    require_sizes(sizes)
    require_ablation(ablation)
    if ablation == "counterfactual":
        lm.measure(task).require_gap(task)
    name = "pairs-" + hashlib.sha256(json.dumps([task.digest(), list(sizes), ablation]).encode()).hexdigest()[:8]
    if show_progress:
        work = [running(lm, task, 3 * len(sizes) + 2, "the circuit, both curves, a random circuit", ablation)]
        announce(told(timed(lm, task, work), "drawing the page"), show_progress)
    evaluation = measured(
        lm, name, task, found.circuit, found.scores, seen=seen_by(task, found.pairs), sizes=sizes,
        seed=int(found.asked["seed"]), ablation=ablation, folder=folder and place(folder, name),
        show_progress=show_progress,
    )  # fmt: skip
    if folder is not None:
        others = tuple(one for one in found.further if one.name != name)
        save_discovery(dataclasses.replace(found, further=(*others, evaluation)), folder)
    return evaluation
