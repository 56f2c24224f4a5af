"""Checking an estimate of interactions: exact ones of its strongest pairs and of a random sample (`check`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from veracausa.dictionaries.dictionary import Dictionary
from veracausa.engine.work import Derived, gives
from veracausa.errors import MethodError
from veracausa.interplay.checked import CheckedInteractions
from veracausa.interplay.interacting import InteractionsWork, interactions
from veracausa.interplay.results import Interactions

if TYPE_CHECKING:
    from jaxtyping import Int

    from veracausa.model import Model
    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class CheckWork(Derived):
    """Exact interactions of the sources of some pairs; see `check`."""

    effects: InteractionsWork
    estimate: Interactions
    top: Int[np.ndarray, " top"]
    drawn: Int[np.ndarray, " drawn"]
    tau: float
    confidence: float
    seed: int
    whole: float

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> CheckedInteractions:
        """Run them."""
        exact = self.effects.run(show_progress, out)
        if exact.model["identity"] != self.estimate.model["identity"]:
            raise MethodError("The model is not the one that the interactions were estimated on.")
        return CheckedInteractions(
            self.estimate, exact, self.top, self.drawn, self.tau, self.confidence, self.seed, self.whole
        )


@gives(CheckedInteractions)
def check(
    lm: Model,
    task: Task,
    estimate: Interactions,
    *,
    top: int = 20,
    sample: int = 100,
    tau: float = 0.1,
    confidence: float = 0.95,
    seed: int = 0,
    reference: Task | None = None,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> CheckWork:
    """Exact interactions of the strongest pairs of an estimate and of a random sample of the others.

    A source is run once for all readers, so what comes with a chosen pair's source is exact, too. From how many of the
    drawn pairs are strong follows, with `confidence`, how many of those can be that nobody ran.

    Args:
        lm, task, dictionary: those that the estimate was made with.
        estimate: what `vc.interactions` gave, by another method than "exact".
        top, sample: how many of the strongest pairs, and of the others at random.
        tau: a pair is strong if its exact strength is over so much of the largest of the top.
        confidence: of the bound.
        seed: of the sample, which depends on nothing else.
        reference: that of the estimate, for `ablation="mean"`.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        MethodError: an exact result, or one of another model, task, reference set or dictionary.

    >>> found = vc.interactions(lm, task, "heads:10", "neurons:12")
    >>> vc.interplay.check(lm, task, found).missed
    """
    if estimate.exact:
        raise MethodError("These interactions are exact already: every number was run.")
    if estimate.task["digest"] != task.digest():
        raise MethodError(f"The interactions are of {estimate.task['name']!r} with other prompts than this task's.")
    if not (top >= 1 and sample >= 0 and tau > 0 and 0 < confidence < 1):
        raise MethodError("check takes top=1 or more, sample=0 or more, tau over 0 and a confidence between 0 and 1.")
    pairs = np.ravel_multi_index(tuple(estimate.ranking()), estimate.strength.shape)
    strongest, others = pairs[:top], np.sort(pairs[top:])
    drawn = np.random.default_rng(seed).permutation(others)[:sample]
    readers, sources = (list(side) for side in (estimate.readers, estimate.sources))
    which = np.unique(np.concatenate([strongest, drawn]) % len(sources))
    how: dict[str, Any] = {name: estimate.settings[name] for name in ("way", "ablation")}
    how |= {"method": "exact", "reference": reference, "dictionary": dictionary}
    every = interactions.work(lm, task, sources, readers, **how)
    same = ("reference_digest", "dictionary_digest")
    if different := [name for name in same if every.settings.get(name) != estimate.settings.get(name)]:
        raise MethodError(f"The interactions were estimated with another {different[0].partition('_')[0]}.")
    some = interactions.work(lm, task, [sources[k] for k in which], readers, **how)
    return CheckWork(some, estimate, strongest, drawn, tau, confidence, seed, every.tokens())
