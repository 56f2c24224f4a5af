"""The questions of a sweep and the options of each, as names: a plan is checked against them before anything is loaded.

`tests/sweeps/test_verbs.py` holds them against the signatures of the verbs themselves.
"""

from __future__ import annotations

_ESTIMATE = (
    "units", "method", "direction", "baseline", "nodes", "grid", "steps", "seed", "reference",
)  # fmt: skip
_CHECK = ("top", "sample", "tau", "until", "budget")
_SIZES = ("ablation",)

#: Verb → its options. A receipt's and a curve's are those of the estimate that they are about, and their own.
VERBS: dict[str, tuple[str, ...]] = {
    "exact": ("units", "ablation", "direction", "reference", "seed"),
    "attribute": _ESTIMATE,
    "verify": (*_ESTIMATE, *_CHECK),
    "curve": (*(name for name in _ESTIMATE if name != "units"), *_SIZES),
    "ablation_study": ("units", "ablations", "together", "new_tokens", "top", "reference", "alpha", "seed"),
    "study": ("level", "neurons", "sample", "nodes", "interactions", "circuit", "positions", "seed"),
    "discover": ("method", "edges", "how", "by", "top", "sample", "attack", "positions", "seed"),
}
#: Those of a receipt and of a curve that are not the estimate's.
OWN = {"verify": _CHECK, "curve": _SIZES}
#: Those that are asked of both: a receipt's effects are compared with an estimate of the same reference set.
BOTH = {"verify": ("reference",)}
#: Those that are done in stages, each with its own pieces, and give a folder with a page of its own.
STAGED = ("study", "discover")
#: Those whose answers are scores.
SCORED = ("exact", "attribute")
