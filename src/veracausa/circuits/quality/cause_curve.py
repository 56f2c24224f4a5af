"""How much of a ranking must be patched until the answer flips: circuits judged by what they cause.

The k strongest parts of a ranking carry the corrupted run's writes, all others their own in this very run: with k = 0
the clean run, with all edges the corrupted one (edges out of the input stay clean unless they are asked for). A pair
*flips* where its metric, which sets right against wrong answers, has the sign of the corrupted run's. Counted are pairs
whose bare runs differ in sign; others cannot flip.

    share(k) = flipped pairs / pairs that can flip        area = mean of share over log k, from the smallest k to all

Faithfulness asks what the strongest parts restore alone; this asks what they undo in the whole model, which other parts
may cover for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.choices import Ranking
from veracausa.circuits.quality.curve import area
from veracausa.circuits.ranked import Ranked
from veracausa.circuits.runs.run_circuits import CircuitRuns, Judged, Outcomes, Ran
from veracausa.cost import Cost
from veracausa.engine.work import gives
from veracausa.errors import GapError, MethodError
from veracausa.scores.scores import Scores
from veracausa.statistics.bootstrap import too_few, with_replacement
from veracausa.statistics.means import standard_error
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, one_of, reading, record, require_tensors, text, whole
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.metrics import compares_answers
from veracausa.words import counted, share

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Bool, Float

    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Draws of pairs for the interval of a size, its ends, and the seed of the draws.
_DRAWS, _ENDS, _SEED = 1000, (0.05, 0.95), 0


class Reach(NamedTuple):
    """The smallest size tried at which a share has flipped (`at`; None: at none), and the largest tried `below` it.

    `interval`: 90%, of `at`, over draws of pairs with replacement (None: fewer than 16 pairs can flip; infinity: not
    reached in that draw).
    """

    below: int
    at: int | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class CauseCurve(Ran):
    """Which pairs flip when only the strongest parts of a ranking are patched; see the module.

    `method`: of the scores; `parts`: "edges" or "nodes"; `of`: how many were ranked; `sizes`: how many were patched;
    `metric`: M of every size and pair; `measured`: M of both bare runs.

    >>> found = vc.circuits.cause_curve(lm, task, scores)
    >>> found.reach(0.5).at, found.area
    """

    method: str
    parts: str
    of: int
    sizes: tuple[int, ...]
    metric: Float[Tensor, "sizes examples"]
    measured: Measurement
    cost: Cost
    model: dict[str, str]
    task: dict[str, Any]
    settings: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def can_flip(self) -> Bool[Tensor, " examples"]:
        """Pairs whose bare runs prefer different answers."""
        return can_flip(self.measured)

    @property
    def flips(self) -> Bool[Tensor, "sizes flipping"]:
        """Whether each pair that can flip does, at each size."""
        wanted = self.can_flip
        return self.metric[:, wanted].sign() == self.measured.corrupted[wanted].sign()

    @property
    def flipped(self) -> Float[Tensor, " sizes"]:
        """Share of the pairs that can flip."""
        return self.flips.double().mean(1)

    @property
    def stderr(self) -> Float[Tensor, " sizes"]:
        """Standard error of `flipped` over pairs; NaN for a single one."""
        return standard_error(self.flips.double().T)

    @property
    def area(self) -> float:
        """Mean share over log k, from the smallest size to the largest: 1 if the first part flips all pairs."""
        return area(self.sizes, self.flipped.tolist(), log=True)

    @property
    def area_stderr(self) -> float:
        """Its standard error over pairs."""
        each = [area(self.sizes, pair, log=True) for pair in self.flips.double().T.numpy()]
        return float(standard_error(torch.tensor(each, dtype=torch.float64)[:, None])[0])

    def reach(self, wanted: float) -> Reach:
        """The smallest size at which so large a share of the pairs has flipped.

        >>> found.reach(0.9).at
        """
        if not 0 < wanted <= 1:
            raise MethodError(f"wanted={wanted}: give a share of the pairs over 0, up to 1.")
        sizes, flips = np.array([0, *self.sizes]), self.flips.double().numpy()
        first = _first(flips.mean(1)[None], wanted, sizes)[0]
        interval = None
        if not too_few(n := flips.shape[1]):
            drawn = with_replacement(n, n, _DRAWS, _SEED) @ flips.T / n
            ends = np.quantile(_first(drawn, wanted, sizes), _ENDS, method="closest_observation")
            interval = (float(ends[0]), float(ends[1]))
        below = int(sizes[sizes < first].max(initial=0))
        return Reach(below, None if np.isinf(first) else int(first), interval)

    def table(self) -> pd.DataFrame:
        """One row per size: parts patched, share of them all, share of pairs flipped with its error, mean M."""
        import pandas as pd

        return pd.DataFrame(
            {
                self.parts: self.sizes,
                "share": np.array(self.sizes) / self.of,
                "flipped": self.flipped.numpy(),
                "stderr": self.stderr.numpy(),
                "metric": self.metric.double().mean(1).numpy(),
            }
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """How many parts flip half and nine tenths of the pairs, and the area."""
        able, n = int(self.can_flip.sum()), len(self.measured.clean)
        return (
            f"Where only the strongest {self.parts} by {self.method} are patched, half of the pairs flip "
            f"{self._said(self.reach(0.5))}; 90% {self._said(self.reach(0.9))}.",
            f"Averaged over log k, {share(self.area, self.area_stderr)[1:]} of them have flipped.",
            f"{able:,} of {counted(n, 'pair')} can flip: there both runs prefer different answers.",
        )

    def _said(self, found: Reach) -> str:
        if found.at is None:
            return f"at no size up to {self.sizes[-1]:,}"
        return f"with {found.at:,} of {self.of:,}" + (f", not yet with {found.below:,}" if found.below else "")

    def describe(self) -> str:
        """What was patched, and the figures."""
        lines = [
            f"cause curve of {self.of:,} {self.parts} by {self.method} · {counted(len(self.sizes), 'size')} · "
            f"{counted(len(self.measured.clean), 'pair')}",
            f"model   {self.model['source']}",
            f"task    {self.task['description']}",
            *(f"        {one}" for one in self.sentences),
            f"cost    {self.cost.describe()}",
        ]
        return "\n".join([*lines, *(f"note    {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"{self.describe()}\n{self.table().round(4).to_string(index=False)}"

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header = {name: getattr(self, name) for name in ("method", "parts", "of", "sizes", "notes")} | self.about
        return write_tensors(path, FORMAT, header, {"metric": self.metric, **self.measured.ends})


FORMAT = "veracausa-cause-curve-1"
_HEADER = record(
    method=text, parts=one_of("edges", "nodes"), of=whole(1), sizes=many(whole(1), least=1), notes=many(text),
    model=MODEL, task=TASK, cost=cost, settings=record(ablation=text),
)  # fmt: skip


def load_cause_curve(path: str | Path) -> CauseCurve:
    """Read what `CauseCurve.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        told = _HEADER(header)
        wanted = {"metric": "finite sizes pairs", "clean": "finite pairs", "corrupted": "finite pairs"}
        require_tensors(tensors, wanted, sizes=len(told["sizes"]))
        if list(told["sizes"]) != sorted({*told["sizes"]}) or told["sizes"][-1] > told["of"]:
            raise ValueError("its sizes do not rise, or are more than its parts")
        measured = Measurement(tensors["clean"], tensors["corrupted"])
        names = ("method", "parts", "of", "sizes", "notes", "model", "task", "cost", "settings")
        return CauseCurve(metric=tensors["metric"], measured=measured, **{name: told[name] for name in names})


@dataclass(frozen=True, eq=False)
class CauseWork(Judged[CauseCurve]):
    """What `cause_curve` is about to do."""

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> CauseCurve:
        """Patch every size; refuses first where no pair can flip."""
        if not can_flip(self.lm.measure(self.task)).any():
            raise GapError(
                f"In no pair of {self.task.name!r} do the clean and the corrupted run prefer different answers (M "
                "above and below 0), so no answer can flip. Take pairs that the model answers rightly, with corrupted "
                "prompts that change the answer."
            )
        return super().run(show_progress, out)


@gives(CauseCurve)
def cause_curve(
    lm: Model,
    task: Task,
    scores: Scores,
    *,
    sizes: Sequence[int] | None = None,
    by: Ranking = "importance",
    inputs: bool = False,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> CauseWork:
    """Which share of the answers flips when only the k strongest parts of a ranking are patched.

    Args:
        lm: the model.
        task: the pairs to evaluate on; held-out ones, if the scores are of others. Its metric must set right against
            wrong answers (`logit_diff`, `prob_diff`, …).
        scores: of edges, or of heads, MLPs and other nodes, whose edges out are then patched all.
        sizes: how many parts are patched, rising (default: 1, 2, 5, 10, … and all).
        by: strongest by signed importance (what supports the behaviour), "abs_mean" or "mean_abs".
        inputs: patch edges out of the input, too. One of them may carry all that differs between the prompts
            (`input->m0` in SmolLM2), and then flips every answer by itself, whatever follows in the ranking.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments goes on from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `CauseCurve`; every size is `vc.faithfulness` of the circuit of all other edges.

    Raises:
        UnitError: scores of other parts. MethodError: a metric without wrong answers, sizes out of range.
        GapError: no pair can flip. Others as for `vc.faithfulness`.

    Cost: a run of nearly the whole graph for every size, on pairs that are recorded once.

    >>> vc.circuits.cause_curve(lm, held_out, scores).reach(0.5)
    """
    ranked = Ranked.of(lm, scores, by, inputs=inputs)
    if not compares_answers(task.metric):
        raise MethodError(
            f"An answer flips where the metric changes its sign, and {task.metric!r} does not set right against wrong "
            "answers. Take a task with metric='logit_diff' or 'prob_diff'."
        )
    counts = _sizes(sizes, len(ranked))
    runs = CircuitRuns.of(lm, task, [ranked.without(count) for count in counts])

    def judge(found: Outcomes) -> CauseCurve:
        rest = (
            found.measured,
            found.cost,
            found.model,
            found.task,
            {**found.settings, "by": by, "inputs": inputs},
            found.notes,
        )
        return CauseCurve(scores.method, ranked.parts, len(ranked), counts, found.metric, *rest)

    return CauseWork(runs, judge, f"the cause curve of {len(counts)} sizes by {scores.method}")


def can_flip(measured: Measurement) -> Bool[Tensor, " examples"]:
    """Pairs whose bare runs prefer different answers."""
    return measured.clean.sign() * measured.corrupted.sign() == -1


def _first(flipped: Float[np.ndarray, "draws sizes"], wanted: float, sizes: np.ndarray) -> Float[np.ndarray, " draws"]:
    """Of every draw the smallest size with that share (`sizes`: 0 first, where nothing flips); else infinity."""
    found: np.ndarray = np.where(flipped >= wanted, sizes[1:], np.inf).min(1)
    return found


def _sizes(sizes: Sequence[int] | None, most: int) -> tuple[int, ...]:
    """Numbers of parts, rising, each once.

    >>> _sizes(None, 70)
    (1, 2, 5, 10, 20, 50, 70)
    """
    if sizes is None:
        steps = [step * 10**power for power in range(len(str(most))) for step in (1, 2, 5)]
        return (*(step for step in steps if step < most), most)
    found = [int(size) for size in sizes]
    if not found or found != sorted({*sizes}) or not 1 <= found[0] <= found[-1] <= most:
        raise MethodError(f"sizes={shown(list(sizes))}: give rising numbers of parts from 1 to {most:,}.")
    return tuple(found)
