"""Plans of sweeps about a tiny model in a folder and pairs in a file."""

from __future__ import annotations

import veracausa as vc

PAIRS = (
    ("After the keys near the cabinet", "After the key near the cabinet", " are", " is"),
    ("the keys near the store", "the key near the store", " are", " is"),
    ("After the keys near the store", "After the key near the store", " are", " is"),
    ("the keys near the cabinet", "the key near the cabinet", " are", " is"),
)
#: Far less than anything takes: everything is cut as small as it can be.
TINY = 1e-9


def plan(there, *questions, **more):
    """A plan of some questions; `there`: the folder of a model, the file of its pairs."""
    model = {"name": str(there[0]), "dtype": "float64", "device": "cpu"}
    return {"models": [model], "tasks": [{"file": str(there[1])}], "questions": list(questions), **more}


def quiet(plan, out, **more):
    """A sweep without a bar."""
    return vc.sweep(plan, out=out, show_progress=False, **more)
