"""What a study asks about dictionaries that lie on its model: how well they fit, and where the strongest parts fire."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from veracausa.cost import Cost
from veracausa.engine.measure import measured_runs
from veracausa.fitting.quality import check
from veracausa.reading.activating import activations
from veracausa.studies.choosing import beside_first

if TYPE_CHECKING:
    from veracausa.dictionaries.code import Code
    from veracausa.model import Model
    from veracausa.planning.stages import Stage
    from veracausa.scores.scores import Scores
    from veracausa.studies.results import Panel
    from veracausa.tasks.task import Task

#: Parts of dictionaries that are shown token by token.
SHOWN = 20


def kinds_laid(lm: Model) -> list[str]:
    """The kinds of dictionaries that lie on a model: "features", "directions", "features.mlp"."""
    return sorted({kind for kind, _ in lm.decoder.codes})


@dataclass(frozen=True)
class FeatureWork:
    """The stages about dictionaries. `panel(kind)`: the effects that were found; `made(what, kind, tokens, run)`: a
    stage whose failure is a sentence in its chapter's place; `found(finding)` keeps one, and says what it cost."""

    lm: Model
    task: Task
    show: bool
    panel: Callable[[str], Panel]
    made: Callable[[str, str, float, Callable[[], Cost]], Stage]
    found: Callable[[Any], Cost]

    def stages(self) -> list[Stage]:
        """How well every dictionary fits; then, kind by kind, where its strongest parts fire."""
        lm, prompts = self.lm, sum(map(len, dict.fromkeys(self.task.prompts)))
        runs = 4 * lm.layers * sum(map(len, self.task.prompts)) + 2 * measured_runs(lm, self.task)
        fits = [
            self.made(f"how well {code.dictionary!r} fits", "gradients", runs, partial(self._fit, code))
            for code in lm.decoder.codes.values()
        ]
        fires = [
            self.made(f"where the strongest {kind} fire", "gradients", lm.layers * prompts, partial(self._fire, kind))
            for kind in kinds_laid(lm)
        ]
        return [*fits, *fires]

    def _fit(self, code: Code) -> Cost:
        # The dictionary lies there in the precision of scores; its hash is that of the one that was given.
        return self.found(replace(check(self.lm, code.dictionary, self.task), digest=code.digest))

    def _fire(self, kind: str) -> Cost:
        units = strongest(self.panel(kind).exact)
        return self.found(activations(self.lm, self.task, units=units, show_progress=self.show))


def strongest(exact: Scores) -> list[str]:
    """What dictionaries leave out, then the features with the strongest exact effects, `SHOWN` in all."""
    names = exact.units.names
    return [names[i] for i in beside_first(exact)[:SHOWN]]
