"""What is added up over points, positions, rows and prompts is added in float32 at least, also in half precision.

A model in bfloat16 computes in its own numbers; the sums below are those that our own lines ask for, and the products
in which estimates contract what writers add with gradients. A product in the model's attention, or what a backward
pass adds, is none of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

import veracausa as vc

HALF = (torch.bfloat16, torch.float16)
#: Operations that add many numbers up.
ADDING = {"sum", "mean", "index_add", "index_add_", "scatter_add_", "cumsum", "add_", "addcmul_", "norm"}
#: Products, of estimates alone: in the engine they are the model's.
PRODUCTS = {"mm", "bmm", "baddbmm", "addmm"}
OURS = Path(vc.__file__).parent


class HalfSums(TorchDispatchMode):
    """Lines of ours that add numbers up into numbers of half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation; write down whose it is."""
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        line = _line() if name in ADDING | PRODUCTS else ""
        if line and (name in ADDING or line.startswith("estimates/")):
            self.seen += 1
            if any(one.dtype in HALF for one in tree_iter(found) if isinstance(one, Tensor)):
                self.found.add(f"{line}: {func}")
        return found


def _line() -> str:
    """The line of ours that has asked for an operation, if it is ours."""
    frame: Any = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(("eval_frame.py", "_compile.py")):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    return f"{path.relative_to(OURS)}:{frame.f_lineno}" if OURS in path.parents else ""


CALLS = {
    "exact": (vc.exact, {"units": "heads"}),
    "exact, mean": (vc.exact, {"units": "heads", "ablation": "mean"}),
    "exact edges": (vc.exact, {"units": ["a0.h0->m1", "m1->a2.h0<q>"]}),
    "atp": (vc.attribute, {"units": "neurons"}),
    "ig": (vc.attribute, {"method": "ig", "nodes": 2}),
    "conductance": (vc.attribute, {"method": "conductance", "nodes": 2}),
    "eap": (vc.attribute, {"units": "edges", "method": "eap"}),
    "eap-ig": (vc.attribute, {"units": "edges", "method": "eap-ig", "nodes": 2}),
    "ceap": (vc.attribute, {"units": "edges", "method": "ceap", "nodes": 2}),
    "mask": (vc.estimates.learn_mask, {"steps": 1}),
    "learned circuit": (vc.circuits.learn, {"how": "top-k", "keep": 20, "steps": 1}),
}


@pytest.mark.cases(2)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_sums_are_wide(tiny, task_of, family, name):
    lm, task = tiny(family, dtype=torch.bfloat16), task_of((5, 7), n=2)
    verb, options = CALLS[name]
    with HalfSums() as sums:
        verb(lm, task, **options, show_progress=False)
    assert sums.seen and not sums.found


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_sums_of_circuits_are_wide(tiny, task_of, family):
    lm, task = tiny(family, dtype=torch.bfloat16), task_of((5, 7), n=2)
    circuit = vc.Circuit.of(lm.graph, *(ends[::2] for ends in lm.graph.edges))
    for ablation in ("counterfactual", "mean"):
        with HalfSums() as sums:
            vc.faithfulness(lm, task, circuit, ablation=ablation, show_progress=False)
        assert sums.seen and not sums.found
