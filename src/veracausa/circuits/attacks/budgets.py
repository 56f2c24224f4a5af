"""What an adversary may do to what a circuit leaves out; names only, so that the command line can ask for them."""

from __future__ import annotations

#: Budgets, with what their amounts are.
BUDGETS = {"sparse": "others restored", "bounded": "largest weight", "free": "steps"}
