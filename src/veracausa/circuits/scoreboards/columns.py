"""Columns of a scoreboard, and what is run for them; names only, so that the command line can ask for them."""

from __future__ import annotations

#: Column → what it says, in the order in which they are shown.
COLUMNS = {
    "bounded": "mean of 1 − min(|1 − f|, 1) over log sizes, circuits by |score|",
    "bounded signed": "the same of circuits by signed importance",
    "CMD log": "mean of |1 − f| over log sizes, by |score|",
    "CMD": "∫ |1 − f| over the share of edges, by |score|",
    "KL log": "mean KL from the model's output over log sizes, in nats, by |score|",
    "CPR log": "mean of f over log sizes, by signed importance",
    "CPR": "∫ f over the share of edges, by signed importance",
    "edges wanted": "edges that can matter of the smallest size, by |score|, from which on f is as near to 1 as asked",
    "k 50%": "edges patched, by signed importance, until half of the answers flip: of 1, 2, 5, 10, … the first that do",
    "k 90%": "the same until nine tenths flip",
    "cause area": "share of flipped answers, mean over log k, by signed importance",
    "f": "f of the circuit that is attacked and ablated on other tasks",
    "radius k": "others restored until f leaves [½, 1½]",
    "radius ε": "largest weight of all others until f leaves [½, 1½]",
    "own damage": "share of the task's gap that is gone without the circuit",
    "other damage": "the same of the other tasks, mean",
    "margin": "own damage minus the others' mean",
    "random damage": "own damage by random circuits of the same layer profile",
    "stable draws": "Jaccard of circuits from bootstrap draws of the scored pairs",
    "stable seeds": "Jaccard of circuits from several seeds",
    "price": "token-layers of the scores",
}
#: Those that are better where they are smaller, and those that say nothing of better: CPR grows with overshoot.
SMALLER = ("CMD log", "CMD", "KL log", "edges wanted", "k 50%", "k 90%", "other damage", "price")
NEITHER = ("f", "random damage", "CPR log", "CPR")
#: What is run for every ranking → the columns that come of it.
PARTS = {
    "curve": ("bounded", "bounded signed", "CMD log", "CMD", "KL log", "CPR log", "CPR", "edges wanted"),
    "cause": ("k 50%", "k 90%", "cause area"),
    "adversary": ("f", "radius k", "radius ε"),
    "specificity": ("own damage", "other damage", "margin", "random damage"),
}
