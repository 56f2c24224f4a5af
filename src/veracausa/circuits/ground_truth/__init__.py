"""Models whose circuits are known, to judge methods that look for circuits.

>>> from veracausa.circuits.ground_truth import load_compiled
>>> lm, program = load_compiled("sort")
>>> task, true_edges = program.task(n=64), program.edges
"""

from veracausa.circuits.ground_truth.programs import Pair, Program
from veracausa.circuits.ground_truth.stored import COMPILED, load_compiled

__all__ = ["COMPILED", "Pair", "Program", "load_compiled"]
