"""What one stage of a study has found and another would find again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from veracausa.cost import Cost
from veracausa.scores.completeness import Completeness
from veracausa.scores.scores import Scores, task_header

if TYPE_CHECKING:
    from veracausa.tasks.task import Task


def first_pairs(scores: Scores, task: Task, few: Task) -> Scores:
    """Scores of the first pairs of `task` alone, as if only these, `few`, had been asked for; notes are those of all.

    No pair's scores depend on the others', but for rounding. Their cost is the share of what all pairs took that they
    have of all tokens.
    """
    n, sums, share = len(few), scores.completeness, sum(few.lengths) / sum(task.lengths)
    cost = scores.cost
    return replace(
        scores,
        values=scores.values[:n],
        clean=scores.clean[:n],
        corrupted=scores.corrupted[:n],
        task=task_header(few),
        cost=Cost(
            forward=round(share * cost.forward),
            backward=round(share * cost.backward),
            full=round(share * cost.full),
            seconds=share * cost.seconds,
        ),
        completeness=sums and Completeness(sums.claimed[:, :n], sums.true[:, :n]),
        draw_stderr=None if scores.draw_stderr is None else scores.draw_stderr[:n],
    )
