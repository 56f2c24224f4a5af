"""Options of a command that learns masks: which way, of how many units, in how many runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.cli.command import Options
from veracausa.cli.estimate_options import Keep, LearnerName, Seeds
from veracausa.cli.foretelling import foretold
from veracausa.errors import MethodError
from veracausa.estimates.learned.ways import LEARNED_BY
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.scores.scores import Scores
    from veracausa.tasks.task import Task

_SHARE = "share"


class MaskOptions(Options):
    """How a mask is learned."""

    learner: LearnerName = _SHARE
    keep: Keep = None
    seeds: Seeds = 1

    def require(self, method: str) -> None:
        """MethodError for an unknown way, and for options of a mask where none is learned."""
        if method != "mask" and (self.learner, self.keep, self.seeds) != (_SHARE, None, 1):
            raise MethodError(f"--learner, --keep and --seeds are of masks, not of {method}. Add --method mask.")
        if self.learner not in LEARNED_BY:
            raise MethodError(not_known("learner", self.learner, LEARNED_BY))

    def learned(self, lm: Model, task: Task, units: str | list[str], seed: int, out: Path | None) -> Scores:
        """A mask of units, or of all edges; finished steps are kept in the folder `out`."""
        from veracausa.circuits.selection.learned import learn
        from veracausa.estimates.learned.masks import learn_mask

        asked: dict[str, Any] = {"how": self.learner, "seed": seed, "seeds": self.seeds}
        if self.keep is not None:
            asked["keep"] = int(self.keep) if self.keep >= 1 else self.keep
        if units != "edges":
            found: Scores = foretold(learn_mask, lm, task, {"out": out}, units=units, **asked)
            return found
        edges: Scores = foretold(learn, lm, task, {"out": out}, **asked)
        return edges
