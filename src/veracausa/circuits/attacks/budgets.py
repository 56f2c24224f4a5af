"""What an adversary may do to what a circuit leaves out; names only, so that the command line can ask for them."""

from __future__ import annotations

#: Budgets, with what their amounts are.
BUDGETS = {"sparse": "others restored", "bounded": "largest weight", "free": "steps"}
#: What is asked of each by default.
SIZES, LARGEST, STEPS = (10, 30, 100, 300, 1000, 3000), (0.01, 0.03, 0.1, 0.3, 1.0), (1, 4, 16)
#: Where f is pushed; where a free adversary starts.
GOALS = {"down": "lower f", "up": "raise f", "away": "the one of them that raises |f − 1|, at half the price"}
STARTS = {"zero": "nothing restored", "half": "half of everything", "random": "random weights"}
