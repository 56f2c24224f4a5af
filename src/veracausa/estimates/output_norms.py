"""How much units move a model's outputs, whatever a metric makes of them: a norm over outputs in its place.

    A_u = sqrt( 1/d Σ_o (Δ_u · ∂f_o/∂a_u)² )                    f_o: the logit of token o, d of them

The attribution of 2501.14926 (equation 4), there of components of weights: with u the part P_c = u_c v_cᵀ of a map W,
towards zero, −Δ_u · ∂f_o/∂a_u = ⟨∂f_o/∂W, P_c⟩. It has no sign, and what moves all logits alike counts as much as what
moves the answer; the token set is part of the number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch

from veracausa.arguments import shown
from veracausa.choices import AllUnits, Baseline
from veracausa.cost import Cost
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.laid import with_dictionary
from veracausa.engine.work import Composed, Work, gives
from veracausa.errors import MethodError
from veracausa.estimates.attribute import attribute
from veracausa.scores.scores import Scores
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.model import Model
    from veracausa.tasks.references import Reference
    from veracausa.tasks.task import Task

#: What the header calls it.
NAME = "output-norm"
_OWN = -1


@dataclass(frozen=True, eq=False)
class OutputNormWork(Composed):
    """A slope for every output, and one of the metric, which says what the rest of the header is; see `output_norm`.

    `tokens_of`: [examples, outputs], token ids; −1: the pair has no such output.
    """

    lm: Model
    task: Task
    tokens_of: Int[np.ndarray, "examples outputs"]
    outputs: str
    how: dict[str, Any]
    kind: ClassVar[str] = "gradients"

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return self.how["baseline"] != "corrupted"

    @cached_property
    def _parts(self) -> dict[int, Work]:
        found: dict[int, Work] = {_OWN: attribute.work(self.lm, self.task, **self.how)}
        for output, column in enumerate(self.tokens_of.T):
            some = column[column >= 0][0]  # where a pair lacks this output, any token: it is not counted
            answers = tuple((int(token if token >= 0 else some),) for token in column)
            logit = replace(self.task, correct=answers, incorrect=((),) * len(answers), metric="logit", function=None)
            found[output] = attribute.work(self.lm, logit, **self.how)
        return found

    def parts(self, given: Collection[int] = ()) -> dict[int, Work]:
        """The metric's slopes (−1), and those of every output's logit."""
        return {output: work for output, work in self._parts.items() if output not in given}

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Scores:
        """Root mean squares over outputs."""
        found = {output: work.run(show_progress) for output, work in self._parts.items()}
        own = found.pop(_OWN)
        counted = torch.from_numpy(self.tokens_of >= 0).to(own.values)
        squares = sum((one.values.square() * counted[:, output, None] for output, one in found.items()), 0.0)
        values = (squares / counted.sum(1)[:, None]).sqrt()
        cost = sum((one.cost for one in found.values()), Cost()) + own.cost
        settings = own.settings | {"outputs": self.outputs}
        note = "root mean square over outputs of what the slope says of each logit; no sign"
        return replace(
            own, values=values, method=NAME, settings=settings, cost=cost, signed=False, notes=(note, *own.notes)
        )


@gives(Scores)
def output_norm(
    lm: Model,
    task: Task,
    *,
    units: AllUnits | Sequence[str] | Units = "heads",
    outputs: Literal["answers"] | int = "answers",
    baseline: Baseline = "zero",
    reference: Reference | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    seed: int = 0,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> OutputNormWork:
    """How much replacing each unit moves the logits, by their slopes: a root mean square over outputs, without sign.

    Args:
        lm, task, units, baseline, reference, dictionary, memory, show_progress: as for `vc.attribute`.
        outputs: "answers": each pair's own answer tokens, right and wrong; or a number: so many tokens drawn from the
            vocabulary, the same for all pairs.
        seed: of that draw.

    Returns:
        `Scores`, magnitudes in logits, marked "not verified"; the header says which outputs.

    Raises:
        MethodError: outputs out of range; a metric at several positions. Others as for `vc.attribute`.

    Cost: a forward and a backward pass for each output, and one more.

    >>> vc.estimates.output_norm(lm, task, units="components.down", outputs=16)
    """
    lm = with_dictionary(lm, dictionary)
    task.require_last("Slopes of single logits")
    how: dict[str, Any] = {"units": units, "baseline": baseline, "reference": reference}
    if outputs == "answers":
        tokens, told = _answers(task), "answers"
    else:
        tokens, told = _drawn(lm, task, outputs, seed), f"{outputs} drawn tokens, seed {seed}"
    work = OutputNormWork(lm, task, tokens, told, how)
    work.parts()  # which refuse what does not fit
    return work


def _answers(task: Task) -> Int[np.ndarray, "examples outputs"]:
    """Every pair's answer tokens, right ones first."""
    every = [(*right, *wrong) for right, wrong in zip(task.correct, task.incorrect, strict=True)]
    found = np.full((len(every), max(map(len, every))), -1, dtype=np.int64)
    for row, own in zip(found, every, strict=True):
        row[: len(own)] = own
    return found


def _drawn(lm: Model, task: Task, outputs: int, seed: int) -> Int[np.ndarray, "examples outputs"]:
    """So many different tokens of the vocabulary, the same for all pairs."""
    size = int(lm.hf.config.get_text_config().vocab_size)
    if not isinstance(outputs, int) or not 1 <= outputs <= size:
        raise MethodError(f"outputs={shown(outputs)}: 'answers', or how many of the {size:,} tokens are drawn.")
    drawn = np.random.default_rng(seed).choice(size, outputs, replace=False)
    return np.tile(np.sort(drawn), (len(task), 1))
