"""Attacks on circuits: what an adversary makes of the edges that a circuit says do not matter."""
