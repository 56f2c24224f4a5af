"""What is added up is added in float32 at least, also of a model in half precision."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import veracausa as vc


class Added(TorchDispatchMode):
    """Precisions of everything that rows are added to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation; note where it adds to."""
        if "index_add" in str(func):
            self.found.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("units", "how"),
    [(["a2.h0"], {"path": "layer"}), ("edges", {"path": "inputs"}), ("edges", {"path": "inputs", "rule": "qk-exact"})],
    ids=["layer", "edges", "qk-exact"],
)
def test_sums_of_half_precision_are_taken_in_float32(tiny, task_of, units, how):
    lm, task = tiny("llama", dtype=torch.bfloat16), task_of(6, n=2)
    with Added() as added:
        vc.attribute(lm, task, units=units, method=vc.Method(nodes=2, **how), show_progress=False)
    assert added.found and {*added.found} == {torch.float32}
