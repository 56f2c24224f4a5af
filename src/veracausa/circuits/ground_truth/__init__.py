"""Models whose circuits are known, to judge methods that look for circuits: compiled by tracr.

>>> lm, program = vc.load_compiled("sort")
>>> task, true_edges = program.task(n=64), program.edges
>>> vc.recovery(vc.attribute(lm, task, units="edges", method="eap"), program)
"""

from veracausa.circuits.ground_truth.known import Known, Pair
from veracausa.circuits.ground_truth.programs import Program
from veracausa.circuits.ground_truth.recovery import Recovery, recovery
from veracausa.circuits.ground_truth.stored import COMPILED, load_compiled

__all__ = [
    "COMPILED",
    "Known",
    "Pair",
    "Program",
    "Recovery",
    "load_compiled",
    "recovery",
]
