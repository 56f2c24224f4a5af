"""A tiny model of a family and random pairs, for questions about two of its layers."""

from bridges import as_model
from tiny_models import VOCAB, make, pairs

from veracausa.tasks.task import Task

QUIET = {"show_progress": False}


def asked(family, count=2, length=6, seed=3):
    hf = make(family)
    found = pairs(VOCAB, count, length, seed)
    columns = [[tuple(pair.clean) for pair in found], [tuple(pair.corrupted) for pair in found]]
    task = Task(
        "random", *map(tuple, columns), tuple((p.correct,) for p in found), tuple((p.incorrect,) for p in found)
    )
    return hf, as_model(hf, family), task
