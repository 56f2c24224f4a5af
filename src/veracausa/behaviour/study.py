"""The ablation study: what replacing units does to the metric and to what the model answers.

Every prompt is run as it is, with each unit replaced, and with all of them replaced at once, for every ablation. For
single-token answers the first greedy token decides, so a condition is one run behind its unit (`behaviour.runs`); with
more new tokens the model generates with its keys and values kept (`behaviour.generation`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.behaviour.answers import answer_tokens, begins_right
from veracausa.behaviour.chosen import UNABLATED, Condition, chosen, conditions, require_ablations
from veracausa.behaviour.generation import greedy
from veracausa.behaviour.planning import planned_tokens
from veracausa.behaviour.results import AblationStudy
from veracausa.behaviour.runs import Ablated, Piece, first_tokens, recorded
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.measure import measure, readout
from veracausa.engine.memory import halving, memory_errors
from veracausa.engine.patches import site_width, sites_for
from veracausa.engine.tape import Tape, buckets
from veracausa.errors import MethodError
from veracausa.progress import progress
from veracausa.scores.agreement import Agreement
from veracausa.scores.scores import Scores, task_header
from veracausa.storage.pieces import Checkpoint
from veracausa.units.table import Units
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Pairs of the task that means and donors are taken from, unless a reference is given: enough for a mean, and recording
#: ten thousand pairs would cost more than a condition.
REFERENCE = 256
#: Pairs whose metric the bare model must still give before kept pieces are taken.
_COMPARED = 8


@torch.inference_mode(False)
def ablation_study(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units | Scores | Agreement,
    ablations: Sequence[str] = ("zero", "mean"),
    together: bool = True,
    new_tokens: int = 1,
    answers: Sequence[Sequence[str | Sequence[int]]] | None = None,
    top: int = 6,
    reference: Task | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    out: str | Path | None = None,
    show_progress: bool = True,
) -> AblationStudy:
    """Ablate units one at a time and together; effect on the metric and on task accuracy by greedy generation.

    Units are replaced at every position of the clean prompts, generated positions included: these carry what the
    prompt's last position does (0, its mean, the donor's or the corrupted prompt's last value).

    Args:
        lm: the model.
        task: prompts, metric and answers; only the "counterfactual" ablation looks at the corrupted prompts.
        units: names of heads, attention layers, MLPs or neurons, of any layers (["a20.h0", "m3"]); scores, whose `top`
            strongest are taken; or an agreement, whose outliers are.
        ablations: what replaces units, as for `vc.exact`: "zero", "mean", "resample", "counterfactual".
        together: also all units at once.
        new_tokens: tokens to generate. 1 decides for answers of one token, and is the fastest.
        answers: the right answers of each prompt, as texts or token ids, of any length; default: the task's.
        top: how many units to take from scores or an agreement.
        reference: prompts for mean and resample (default: the task's first 256 pairs, clean and corrupted).
        alpha: level of the tests.
        seed: for resample.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        show_progress: show a progress bar.

    Returns:
        `AblationStudy`: metric (in its units) and greedy tokens of every prompt; accuracies in [0, 1] with 95% Wilson
        intervals; McNemar's exact test against the unablated model on the same prompts, Holm-corrected.

    Raises:
        UnitError, MethodError, AnswerError, NumericsError, OutOfMemoryError: see each message.
        ContractError: the engine's unpatched run does not reproduce the bare model's metric.

    Source: task accuracy after ablation of outlying heads as in METHODS 11; Wilson 1927, McNemar 1947, Holm 1979.

    >>> study = vc.behaviour.ablation_study(lm, vc.tasks.ioi(lm, n=1000), units=["a20.h0", "a23.h3"])
    >>> study["a20.h0", "zero"].accuracy, study["together", "mean"].p_holm
    """
    began = time.monotonic()
    if not 0 < alpha < 1:
        raise MethodError(f"alpha={alpha}: a level lies between 0 and 1.")
    right = answer_tokens(lm, task, answers, new_tokens)
    work = _Work.of(lm, task, units, ablations, together, top, new_tokens, reference, seed)
    cost = work.compute(began, out, show_progress)
    tokens = work.values[..., 1:].round().long()
    return AblationStudy(
        conditions=work.conditions,
        metric=work.values[..., 0].clone(),
        tokens=tokens,
        right=begins_right(tokens, right),
        alpha=alpha,
        settings={
            "ablations": list(work.ablations),
            "new tokens": new_tokens,
            "reference": None if reference is None else reference.describe(),
            "seed": seed if "resample" in work.ablations else None,
        },
        model=lm.header(),
        task=task_header(task),
        cost=cost,
    )


def planned_ablation_study(
    lm: Model,
    task: Task,
    *,
    units: str | Sequence[str] | Units | Scores | Agreement,
    ablations: Sequence[str] = ("zero", "mean"),
    together: bool = True,
    new_tokens: int = 1,
    top: int = 6,
    reference: Task | None = None,
) -> float:
    """Token-layers that `ablation_study` will take with these arguments.

    >>> planned_ablation_study(lm, task, units=["a20.h0"]) / (sum(task.lengths) * lm.layers)
    """
    return _Work.of(lm, task, units, ablations, together, top, new_tokens, reference, 0).planned()


@dataclass(eq=False)
class _Work:
    """One call: what is asked, and the numbers so far, `values` [conditions, prompts, metric and tokens]."""

    lm: Model
    task: Task
    tables: tuple[Units, ...]
    ablations: tuple[str, ...]
    conditions: tuple[Condition, ...]
    new_tokens: int
    reference: Task
    seed: int
    values: Tensor = field(init=False)

    @classmethod
    def of(
        cls, lm: Model, task: Task, units: str | Sequence[str] | Units | Scores | Agreement, ablations: Sequence[str],
        together: bool, top: int, new_tokens: int, reference: Task | None, seed: int,
    ) -> _Work:  # fmt: skip
        """Check what is asked."""
        tables, wanted = chosen(lm, units, top), require_ablations(ablations)
        names = [name for table in tables for name in table.names]
        source = task[:REFERENCE] if reference is None else reference
        return cls(lm, task, tables, wanted, conditions(names, wanted, together), new_tokens, source, seed)

    @property
    def columns(self) -> tuple[int, int]:
        """Conditions, and numbers of each: the metric and the tokens."""
        return len(self.conditions), 1 + self.new_tokens

    def planned(self) -> float:
        """Token-layers of the whole call."""
        return planned_tokens(
            self.lm, self.task, self.tables, self.conditions, self.passes(), self.new_tokens, self.reference
        )

    def passes(self) -> list[tuple[tuple[str, ...], list[tuple[int, tuple[int, ...]]]]]:
        """Ablations that share clean runs, with their buckets: constants and donors; the paired prompts."""
        paired = tuple(name for name in self.ablations if name == "counterfactual")
        whole = tuple(name for name in self.ablations if name not in paired)
        kept = sum(site_width(self.lm.decoder, table.place) + self.lm.width for table in self.tables)
        most = examples_per_batch(self.lm, self.task, kept)
        share = self.new_tokens == 1
        found = []
        for names in (whole, paired):
            if names:
                together = share and names == paired
                found.append((names, buckets(self.lm.decoder, self.task.clean, self.task.corrupted, together, most)))
        return found

    def compute(self, began: float, out: str | Path | None, show_progress: bool) -> Cost:
        """Fill `values`."""
        lm, task, count = self.lm, self.task, self.columns
        checkpoint = None if out is None else self._checkpoint(out)
        shape = (len(task), count[0] * count[1])
        flat = checkpoint.values if checkpoint else torch.full(shape, float("nan"), dtype=lm.score_dtype)
        flags = checkpoint.done if checkpoint else torch.zeros(shape, dtype=torch.bool)
        values, done = flat.view(len(task), *count), flags.view(len(task), *count)
        self.values = values.transpose(0, 1)
        cost = checkpoint.cost if checkpoint else Cost()  # what an interrupted run spent counts, too
        cost.full = sum(task.lengths) * lm.layers
        before, total = cost.seconds, self.planned()
        finished = float(done.double().mean()) * total
        label = f"ablation study of {len(task):,} prompts, {count[0] - 1} ablations"
        with borrowed(lm.decoder), torch.no_grad(), progress(label, total, show_progress, finished) as tick:
            seen = cost.token_layers

            def advance() -> None:
                nonlocal seen
                tick(cost.token_layers - seen)
                seen, cost.seconds = cost.token_layers, before + time.monotonic() - began

            if checkpoint:
                measured = measure(lm, task[:_COMPARED])
                checkpoint.require_behaviour(lm, measured.clean, measured.corrupted)
            try:
                if not done.all():
                    self._validate(cost)
                for names, groups in self.passes():
                    if done[:, [i for i, one in enumerate(self.conditions) if one.ablation in names]].all():
                        continue
                    ablated = [
                        Ablated.of(lm, task, self.tables, name, self.reference, self.seed, cost) for name in names
                    ]
                    advance()

                    def run(start: int, examples: tuple[int, ...], ablated: list[Ablated] = ablated) -> None:
                        for condition, local, metric, tokens in self._bucket(ablated, start, examples, done, cost):
                            rows = torch.tensor(examples)[local.cpu()]
                            values[rows, condition, 0] = metric.to("cpu", values.dtype)
                            values[rows, condition, 1:] = tokens.cpu().to(values.dtype).reshape(len(rows), -1)
                            done[rows, condition] = True
                            advance()
                            if checkpoint:
                                checkpoint.keep()

                    halving(groups, run)
            finally:
                cost.seconds = before + time.monotonic() - began
                if checkpoint:
                    checkpoint.keep(force=True)
        return cost

    def _bucket(
        self, ablated: list[Ablated], start: int, examples: tuple[int, ...], done: Tensor, cost: Cost
    ) -> Iterator[Piece]:
        """What is not done yet of a bucket."""
        own = {one.ablation for one in ablated} | {UNABLATED.ablation}
        todo = ~done[list(examples), :, 0].T
        todo &= torch.tensor([condition.ablation in own for condition in self.conditions])[:, None]
        if not todo.any():
            return
        tape = recorded(self.lm, self.task, ablated, start, examples, cost)
        if self.new_tokens == 1:
            yield from first_tokens(self.lm, self.task, ablated, self.conditions, tape, todo, cost)
        else:
            yield from self._generated(ablated, tape, todo, cost)

    def _generated(self, ablated: list[Ablated], tape: Tape, todo: Tensor, cost: Cost) -> Iterator[Piece]:
        """Continuations of a bucket's prompts under every condition that is not done."""
        read = readout(self.lm, self.task, tape)
        everyone = torch.arange(len(tape.examples), device=self.lm.device)
        for i, condition in enumerate(self.conditions):
            if todo[i].any():
                by = [one for one in ablated if one.ablation == condition.ablation]
                parts = [part for one in by for part in one.parts(tape, condition.units, everyone)]
                with memory_errors(f"Generating with {len(everyone)} prompts"):
                    tokens, logits = greedy(self.lm, tape.tokens[0], parts, self.new_tokens, cost)
                yield i, everyone, read.of_logits(logits, everyone), tokens

    def _validate(self, cost: Cost) -> None:
        """On the first pair: units write what the weights say, and the unpatched run is the bare model's."""
        lm, first = self.lm, (0,)
        sites = {site for table in self.tables for site in sites_for(table.place)}
        places = [table.place for table in self.tables]
        bucket = Bucket.record(lm, self.task, 0, first, cost, sites=sites, places=places)
        with attention_function(lm.decoder, SUFFIX):
            bucket.unpatched(bucket.tape.clean)

    def _checkpoint(self, folder: str | Path) -> Checkpoint:
        header = {
            "version": __version__,
            "model": self.lm.identity,
            "task": self.task.digest(),
            "reference": self.reference.digest(),
            "conditions": [[*condition.units, condition.ablation] for condition in self.conditions],
            "seed": self.seed,
            "new tokens": self.new_tokens,
        }
        count = self.columns
        return Checkpoint.open(folder, "ablation", header, (len(self.task), count[0] * count[1]), self.lm.score_dtype)
