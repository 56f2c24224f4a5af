"""Models whose circuits are known, to judge methods that look for circuits: eight compiled, one trained.

>>> lm, program = vc.load_compiled("sort")          # or vc.load_trained()
>>> task, true_edges = program.task(n=64), program.edges
>>> vc.recovery(vc.attribute(lm, task, units="edges", method="eap"), program)
"""

from veracausa.ground_truth.known import Known, Pair
from veracausa.ground_truth.programs import Program
from veracausa.ground_truth.recovery import Recovery, recovery
from veracausa.ground_truth.registers import Registers
from veracausa.ground_truth.stored import COMPILED, load_compiled
from veracausa.ground_truth.trained import load_trained

__all__ = [
    "COMPILED",
    "Known",
    "Pair",
    "Program",
    "Recovery",
    "Registers",
    "load_compiled",
    "load_trained",
    "recovery",
]
