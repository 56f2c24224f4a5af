"""The ablation study: what replacing units does to the metric and to what the model answers.

Every prompt is run as it is, with each unit replaced, and with all of them replaced at once, for every ablation. For
single-token answers the first greedy token decides, so a condition is one run behind its unit (`behaviour.runs`); with
more new tokens the model generates with its keys and values kept (`behaviour.generation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from veracausa.behaviour.answers import Answers, answer_tokens, begins_right
from veracausa.behaviour.chosen import UNABLATED, Condition, chosen, conditions, require_ablations
from veracausa.behaviour.generation import greedy, new_positions
from veracausa.behaviour.results import AblationStudy
from veracausa.behaviour.runs import Ablated, Piece, first_tokens, recorded
from veracausa.choices import Ablation, AllUnits
from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.crossing_rows import require_one_layer
from veracausa.effects.laid import laid_for_groups, named_units, require_one_donor, with_dictionary
from veracausa.effects.replacements import reference_runs
from veracausa.engine.attention import SUFFIX
from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.coded import narrowed
from veracausa.engine.guard import attention_function
from veracausa.engine.memory import memory_errors
from veracausa.engine.patches import site_width, sites_for, where
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.errors import MethodError, UnitError
from veracausa.scores.agreement import Agreement
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import Scores, task_header
from veracausa.tasks.references import Reference, reference_set
from veracausa.units.groups import Groups as UnitGroups
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units

if TYPE_CHECKING:
    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Pairs of the task that means and donors are taken from, unless a reference is given: enough for a mean, and recording
#: ten thousand pairs would cost more than a condition.
REFERENCE = 256
#: Pairs whose metric the bare model must still give before kept pieces are taken.
_COMPARED = 8

#: Buckets of prompts that run together: (first position, prompts).
Groups = list[tuple[int, tuple[int, ...]]]


@dataclass(frozen=True, eq=False)
class AblationStudyWork:
    """What `ablation_study` is about to do: which units are replaced by what, in how many conditions.

    `tables`: the units, one table per kind. `right`: each prompt's right answers.
    """

    lm: Model
    task: Task
    tables: tuple[Units, ...]
    ablations: tuple[str, ...]
    conditions: tuple[Condition, ...]
    new_tokens: int
    right: Answers
    reference: Task | None
    alpha: float
    seed: int
    kind: ClassVar[str] = "exact"

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return "counterfactual" not in self.ablations

    @property
    def columns(self) -> tuple[int, int]:
        """Conditions, and numbers of each: the metric and the tokens."""
        return len(self.conditions), 1 + self.new_tokens

    @property
    def _dictionaries(self) -> dict[str, Any]:
        """The dictionaries whose parts are ablated; nothing of other units."""
        return dictionary_settings(self.lm, *(table.kind for table in self.tables))

    @property
    def source(self) -> Task:
        """The pairs that means and donors are taken from."""
        return self.task[:REFERENCE] if self.reference is None else self.reference

    def passes(self) -> list[tuple[tuple[str, ...], Groups]]:
        """Ablations that share clean runs, with their buckets: constants and donors; the paired prompts."""
        paired = tuple(name for name in self.ablations if name == "counterfactual")
        whole = tuple(name for name in self.ablations if name not in paired)
        kept = sum(site_width(self.lm.decoder, table.place) + self.lm.width for table in self.tables)
        most = examples_per_batch(self.lm, self.task, kept)
        return [
            (names, buckets(self.lm.decoder, self.task, share, most))
            for names, share in ((whole, False), (paired, self.new_tokens == 1))
            if names
        ]

    def batches(self) -> int:
        """Buckets that are recorded."""
        return sum(len(groups) for _, groups in self.passes())

    def tokens(self) -> float:
        """Token-layers: the first pair, to validate the engine; references; each bucket recorded; each condition."""
        layers, total = self.lm.layers, 3.0 * self.task.lengths[0] * self.lm.layers
        for number, (names, groups) in enumerate(self.passes()):
            recorded = [reference_runs(self.lm, self.source, self.task, name) for name in names]
            total += sum(recorded) * len(self.tables)
            run = [one for one in self.conditions if one.ablation in names or not (one.units or number)]
            depth = sum(map(self._depth, run))
            for start, members in groups:
                length = self.task.lengths[members[0]]
                own = layers * (start + (length - start) * (2 if "counterfactual" in names else 1))
                if self.new_tokens > 1:
                    own += layers * len(run) * new_positions(self.lm, length, self.new_tokens)
                else:
                    own += depth * (length - start)
                total += len(members) * own
        return total

    def _depth(self, condition: Condition) -> int:
        """Blocks that a condition's rows run; none where nothing is replaced."""
        places = [
            (table.place, int(layer))
            for table in self.tables
            for name, layer in zip(table.names, table.layer, strict=True)
            if name in condition.units
        ]
        if len(places) == 1:
            return self.lm.layers - where(self.lm.decoder, *places[0]).join[0]
        return self.lm.layers - min((layer for _, layer in places), default=self.lm.layers)

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> AblationStudy:
        """Run every condition on every prompt."""
        lm, task, (count, numbers) = self.lm, self.task, self.columns
        asked = {
            "reference": self.source.digest(),
            "conditions": [[*condition.units, condition.ablation] for condition in self.conditions],
            "seed": self.seed,
            "new tokens": self.new_tokens,
            **self._dictionaries,
        }
        shape = (len(task), count * numbers)
        with session(
            lm, task, shape, out=out, name="ablation", asked=asked, measured=False, compared=_COMPARED,
            show=show_progress,
        ) as call:  # fmt: skip
            label = f"ablation study of {len(task):,} prompts, {count - 1} ablations"
            with call.bar(label, self.tokens()), torch.no_grad():
                if not call.done.all():
                    self._validate(call.cost)
                for names, groups in self.passes():
                    self._pass(call, names, groups)
        values = call.values.view(len(task), count, numbers).transpose(0, 1)
        tokens = values[..., 1:].round().long()
        return AblationStudy(
            conditions=self.conditions,
            metric=values[..., 0].clone(),
            tokens=tokens,
            right=begins_right(tokens, self.right),
            alpha=self.alpha,
            settings={
                "ablations": list(self.ablations),
                "new tokens": self.new_tokens,
                "reference": None if self.reference is None else self.reference.describe(),
                "seed": self.seed if "resample" in self.ablations else None,
                **self._dictionaries,
            },
            model=call.origin,
            task=task_header(task),
            cost=call.cost,
        )

    def _validate(self, cost: Cost) -> None:
        """On the first pair: units write what the weights say, and the unpatched run is the bare model's."""
        sites = {site for table in self.tables for site in sites_for(table.place)}
        places = [table.place for table in self.tables]
        bucket = Bucket.record(self.lm, self.task, 0, (0,), cost, sites=sites, places=places)
        with attention_function(self.lm.decoder, SUFFIX):
            bucket.unpatched(bucket.tape.clean)

    def _done(self, call: Session) -> Tensor:
        """What is done, [prompts, conditions]."""
        return call.done.view(len(self.task), *self.columns)[..., 0]

    def _pass(self, call: Session, names: tuple[str, ...], groups: Groups) -> None:
        """All conditions of some ablations, and of none."""
        if self._done(call)[:, [one.ablation in names for one in self.conditions]].all():
            return
        ablated = [
            Ablated.of(self.lm, self.task, self.tables, name, self.source, self.seed, call.cost) for name in names
        ]
        call.advance()
        call.rest(groups, partial(self._bucket, call, ablated))

    def _bucket(self, call: Session, ablated: list[Ablated], start: int, examples: tuple[int, ...]) -> None:
        """What is not done yet of a bucket."""
        own = {one.ablation for one in ablated} | {UNABLATED.ablation}
        todo = ~self._done(call)[list(examples)].T
        todo &= torch.tensor([condition.ablation in own for condition in self.conditions])[:, None]
        if not todo.any():
            return
        bucket = recorded(self.lm, self.task, ablated, start, examples, call.cost)
        run = first_tokens if self.new_tokens == 1 else self._generated
        for condition, local, metric, tokens in run(bucket, ablated, self.conditions, todo):
            rows, numbers = bucket.index[local.cpu()], self.columns[1]
            found = [metric[:, None].to(call.values), tokens.to(call.values).reshape(len(rows), -1)]
            call.put((rows[:, None], condition * numbers + torch.arange(numbers)), torch.cat(found, 1))

    def _generated(
        self, bucket: Bucket, ablated: Sequence[Ablated], conditions: Sequence[Condition], todo: Tensor
    ) -> Iterator[Piece]:
        """Continuations of a bucket's prompts under every condition that is not done."""
        everyone, tape = bucket.every, bucket.tape
        for i, condition in enumerate(conditions):
            if todo[i].any():
                by = [one for one in ablated if one.ablation == condition.ablation]
                parts = [part for one in by for part in one.parts(tape, condition.units, everyone)]
                taken = [one.taken(tape, condition.units, everyone) for one in by]
                with memory_errors(f"Generating with {len(everyone)} prompts"):
                    tokens, logits = greedy(self.lm, tape.tokens[0], parts, self.new_tokens, bucket.cost, *taken)
                yield i, everyone, bucket.read.of_logits(logits[:, None], everyone), tokens


@gives(AblationStudy)
def ablation_study(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units | Scores | Agreement,
    ablations: Sequence[Ablation] = ("zero", "mean"),
    together: bool = True,
    new_tokens: int = 1,
    answers: Sequence[Sequence[str | Sequence[int]]] | None = None,
    top: int = 6,
    reference: Reference | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> AblationStudyWork:
    """Ablate units one at a time and together; effect on the metric and on task accuracy by greedy generation.

    Units are replaced at every position of the clean prompts, generated positions included: these carry what the
    prompt's last position does (0, its mean, the donor's or the corrupted prompt's last value).

    Args:
        lm: the model.
        task: prompts, metric and answers; only the "counterfactual" ablation looks at the corrupted prompts.
        units: names of heads, attention layers, MLPs, neurons or features, of any layers (["a20.h0", "m3"]); scores,
            whose `top` strongest are taken; or an agreement, whose outliers are.
        ablations: what replaces units, as for `vc.exact`: "zero", "mean", "resample", "counterfactual".
        together: also all units at once.
        new_tokens: tokens to generate. 1 decides for answers of one token, and is the fastest.
        answers: the right answers of each prompt, as texts or token ids, of any length; default: the task's.
        top: how many units to take from scores or an agreement.
        reference: prompts for mean and resample (default: the task's first 256 pairs, clean and corrupted).
        alpha: level of the tests.
        seed: for resample.
        dictionary: features or directions of a site, or several; their parts are units, too.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
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
    if not 0 < alpha < 1:
        raise MethodError(f"alpha={alpha}: a level lies between 0 and 1.")
    task.require_last("Ablation studies")
    lm, units = _named(with_dictionary(lm, dictionary), units)
    right, tables = answer_tokens(lm, task, answers, new_tokens), chosen(lm, units, top)
    wanted, names = require_ablations(ablations), [name for table in tables for name in table.names]
    lm = _laid(lm, max(task.lengths), tables, wanted, together, new_tokens)
    runs = conditions(names, wanted, together)
    reference = reference_set(lm, reference)
    return AblationStudyWork(lm, task, tables, wanted, runs, new_tokens, right, reference, alpha, seed)


def _named(lm: Model, units: Any) -> tuple[Model, Any]:
    """The model with the components that are spoken of, and what is spoken of with their patterns spelled out."""
    if isinstance(units, Scores | Agreement):
        return named_units(lm, units.units if isinstance(units, Scores) else units.names)[0], units
    return named_units(lm, units.split(",") if isinstance(units, str) else units)


def _laid(
    lm: Model, longest: int, tables: Sequence[Units], ablations: Sequence[str], together: bool, new_tokens: int
) -> Model:
    """A model whose dictionaries tell apart the parts that are ablated.

    Raises:
        UnitError: parts of dictionaries while several tokens are generated by a model with mixers, or together from
            other prompts; what sets one activation twice.
    """
    coded = [table for table in tables if is_coded(table.kind)]
    if not coded:
        return lm
    for table in coded:
        require_one_layer(lm, table.kind, "Ablation studies are")
    if new_tokens > 1 and (lm.decoder.has_mixers or lm.decoder.anatomy.joins_rows):
        raise UnitError(
            f"{coded[0].names[0]} can be ablated in {lm.name} for the first answered token: leave new_tokens at 1."
        )
    names = [name for table in tables for name in table.names]
    every = {"together": names} if together and len(names) > 1 else {}
    if every or new_tokens > 1:
        groups = resolve_units(lm, every or {name: [name] for name in names}, longest, groups=True)
        assert isinstance(groups, UnitGroups)
        if every and "resample" in ablations:
            require_one_donor(groups, "resample")
        return laid_for_groups(lm, groups)
    for table in coded:
        lm = narrowed(lm, table.kind, table.layer, table.index)
    return lm
