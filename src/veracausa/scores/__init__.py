"""Scores: numbers per unit and pair, their files, and how two sets of them agree; not how they came about."""
