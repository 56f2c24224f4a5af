"""Results that are made of scores say of model, task and cost what the scores say."""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

from veracausa.result import Shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from veracausa.cost import Cost
    from veracausa.scores.scores import Scores


class MadeOfScores(Shown):
    """A result that holds scores of one model, `parts` of them; the first say what it is about."""

    if TYPE_CHECKING:

        @property
        def parts(self) -> Sequence[Scores]: ...  # noqa: D102

    @property
    def model(self) -> dict[str, str]:
        """The model of the scores."""
        return self.parts[0].model

    @property
    def task(self) -> dict[str, Any]:
        """The task of the scores, or of the first of them."""
        return self.parts[0].task

    @property
    def cost(self) -> Cost:
        """Of all its scores, those too that were handed over."""
        return reduce(add, (one.cost for one in self.parts))
