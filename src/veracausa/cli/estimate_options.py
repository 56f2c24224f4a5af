"""Options of estimates, of their receipts and of circuits; see `options`."""

from __future__ import annotations

from typing import Annotated

from veracausa.circuits.attacks.budgets import BUDGETS, GOALS, STARTS
from veracausa.circuits.scoreboards.columns import PARTS as BOARD
from veracausa.circuits.selection.ways import HOW
from veracausa.cli.choices import one_of, several_of
from veracausa.cli.options import any_of, count, explained, number, option
from veracausa.discovery.ways import SCORED_BY
from veracausa.estimates.learned.ways import LEARNED_BY
from veracausa.estimates.presets import EDGE_PRESETS, ESTIMATES, NODES_ONLY
from veracausa.scores.estimands import BASELINES
from veracausa.tasks.registry import BUILTIN

_OF_EDGES = ", ".join(f"{edge} for {node}" for node, edge in NODES_ONLY.items())
Method = Annotated[
    str,
    option(
        help=f"{any_of(ESTIMATES)}; of --units edges {_OF_EDGES}, or ifr. See `veracausa methods`.",
        autocompletion=one_of(dict.fromkeys((*ESTIMATES, *EDGE_PRESETS, "ifr"))),
    ),
]
Methods = Annotated[
    str, option(help=f"all, or with commas: {', '.join(ESTIMATES)}.", autocompletion=several_of(("all", *ESTIMATES)))
]
EdgeMethod = Annotated[
    str,
    option(
        *("--method",),
        help=f"What scores the edges: {any_of(SCORED_BY)}. See `veracausa methods`.",
        autocompletion=one_of(SCORED_BY),
    ),
]
LearnerName = Annotated[
    str,
    option(
        "--learner",
        help=f"How a mask is learned: {any_of(LEARNED_BY)}. See `veracausa methods`.",
        autocompletion=one_of(LEARNED_BY),
    ),
]
Keep = Annotated[
    float | None, number(help="Units that a mask keeps: a share under 1, or a number. Default: 0.1; of edges 0.02.")
]
Seeds = Annotated[int, count(help="Runs of a mask, each with a seed of its own; their spread is told.", min=1)]
Baseline = Annotated[
    str | None,
    option(help=f"What units move towards: {any_of(BASELINES)}. Default: corrupted.", autocompletion=one_of(BASELINES)),
]
Nodes = Annotated[int | None, count(help="Points on the path. Default: the method's own.")]
Minutes = Annotated[float | None, number(help="Time to take; what does not fit is listed as left out.")]
Edges = Annotated[int, count(help="Edges asked for; dead ends are pruned.")]
How = Annotated[
    str,
    option(
        help=f"How edges are chosen by their scores: {any_of(HOW)}. See `veracausa methods`.",
        autocompletion=one_of(HOW),
    ),
]
Sizes = Annotated[
    str | None,
    option(metavar="X,X", help="Shares of the edges to run circuits of, with commas. Default: ten, from 0.001 to 1."),
]
Budgets = Annotated[
    str,
    option(
        metavar="X,X",
        help=f"What the adversary may do, with commas: {explained(BUDGETS)}.",
        autocompletion=several_of(BUDGETS),
    ),
]
Restored = Annotated[str, option(metavar="N,N", help="How many others a sparse adversary restores, with commas.")]
Largest = Annotated[str, option(metavar="X,X", help="Largest weights of a bounded adversary, with commas.")]
Steps = Annotated[str, option("--steps", metavar="N,N", help="After how many steps a free adversary is looked at.")]
Goals = Annotated[
    str, option(metavar="X,X", help=f"Where f is pushed: {explained(GOALS)}.", autocompletion=several_of(GOALS))
]
Starts = Annotated[
    str,
    option(
        metavar="X,X",
        help=f"Where a free adversary starts: {explained(STARTS)}; one named twice is drawn anew.",
        autocompletion=several_of(STARTS),
    ),
]
WholeNodes = Annotated[
    bool,
    option("--whole-nodes", help="Restore whole heads and MLPs. The circuit then has all edges out of its own nodes."),
]
RandomWeights = Annotated[
    int, count("--draws", help="Random weights of every budget, and random circuits of the same layer profile.", min=0)
]
Rankings = Annotated[
    str,
    option(
        metavar="X,X",
        help=f"What scores the edges, with commas: {any_of(SCORED_BY)}, or random.",
        autocompletion=several_of((*SCORED_BY, "random")),
    ),
]
BoardParts = Annotated[
    str | None,
    option(
        metavar="X,X",
        help=f"What is run for every ranking, with commas: {any_of(BOARD)}. Default: all, specificity with --tasks.",
        autocompletion=several_of(BOARD),
    ),
]
OtherTasks = Annotated[
    str | None,
    option(
        metavar="TASK,TASK",
        help="Other tasks to ablate the circuits on, with commas.",
        autocompletion=several_of(BUILTIN),
    ),
]
Share = Annotated[float, number(help="Share of the edges of the circuits that are attacked and ablated.")]
RandomCircuits = Annotated[int, count("--draws", help="Random circuits of the same layer profile for each.", min=0)]
Attacked = Annotated[
    bool, option("--attack", help="Also ask an adversary how many other edges, restored, break the circuit.")
]
ByPosition = Annotated[
    bool, option("--positions", help="Also score the circuit's edges at every position; the page draws them there.")
]
EachPair = Annotated[bool, option("--each", help="Also let each pair have weights of its own.")]
Verify = Annotated[bool, option("--verify", help="Check it against exact effects; print a receipt.", panel="Receipt")]
Top = Annotated[int, count(help="How many of the strongest to verify by exact effects.", min=0, panel="Receipt")]
Sample = Annotated[int, count(help="How many of the others, drawn at random, to verify.", min=0, panel="Receipt")]
Tau = Annotated[float, number(help="A unit is strong above this share of the gap.", panel="Receipt")]
UntilMissed = Annotated[
    int | None, count(help="Go on verifying until at most so many strong units can be missed.", panel="Receipt")
]
Budget = Annotated[
    float | None,
    number(help="Largest share of the cost of exact effects of all units to spend on the receipt.", panel="Receipt"),
]
