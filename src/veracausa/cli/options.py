"""The options of all commands, each with one name, one type and one help text, made from the library's own tables.

Nothing here needs torch, so that `--help` answers at once. Commands give the defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from veracausa.circuits.attacks.budgets import BUDGETS
from veracausa.circuits.scoreboards.columns import PARTS as BOARD
from veracausa.circuits.selection.ways import HOW
from veracausa.cli.choices import models, one_of, several_of, tasks
from veracausa.discovery.ways import SCORED_BY
from veracausa.estimates.presets import EDGE_PRESETS, ESTIMATES, NODES_ONLY
from veracausa.loading.wheels import PACKAGED
from veracausa.scores.estimands import ABLATIONS, BASELINES, DIRECTIONS, INSTEAD, RESTORED, UNLEARNED
from veracausa.storage.files import at
from veracausa.tasks.aligned import ALIGNED
from veracausa.tasks.columns import COLUMNS, UNEQUAL
from veracausa.tasks.custom import PUBLISHED
from veracausa.tasks.files import ENDINGS
from veracausa.tasks.metrics import COMBINED, METRICS
from veracausa.tasks.references import REFERENCE_FILES
from veracausa.tasks.registry import BUILTIN, CORRUPTIONS
from veracausa.units.kinds import KINDS

#: Precisions to load in; the first where none is named, the last: that of the file.
DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")
#: What `--units` takes as a whole.
_ALL_KINDS = (*KINDS, "edges")


def _or(names: Iterable[str]) -> str:
    """a, b or c."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def _explained(table: dict[str, str]) -> str:
    """A table of names in words: "zero (zeros), mean (its mean over the prompts)"."""
    return ", ".join(f"{name} ({words})" for name, words in table.items())


def _option(*names: str, panel: str | None = None, metavar: str = "NAME", **more: Any) -> Any:
    return typer.Option(*names, rich_help_panel=panel, metavar=metavar, **more)


_count, _number = partial(_option, metavar="N"), partial(_option, metavar="X")


Memory = Annotated[
    str | None,
    _option(
        metavar="SIZE", help="Work within so much memory beside the weights: 8GB. Default: what is free.", panel="Model"
    ),
]


# ---- which pairs ----------------------------------------------------------------------------------------------------

_TASKS = (
    f"{', '.join((*BUILTIN, PUBLISHED))}; or a file of pairs ({', '.join(ENDINGS)}) with the columns "
    f"{', '.join(COLUMNS)}. See `veracausa tasks`."
)
_CORRUPTIONS = "; ".join(f"{task}: {_or(kinds)}" for task, kinds in CORRUPTIONS.items())
_SEED = _count(help="Of the pairs, and of all that is drawn at random.", min=0, panel="Pairs")
_N = _count("--n", help="How many pairs of a built-in task to make; a file is taken whole.", min=1, panel="Pairs")

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help=f"{_TASKS} Also given as --task TASK.", autocompletion=tasks)
]
OtherTask = Annotated[str | None, _option("--task", help=_TASKS, autocompletion=tasks, panel="Pairs")]
HeldOut = Annotated[
    str | None,
    _option(metavar="TASK", help="A task or file to evaluate on. Default: half of the pairs.", autocompletion=tasks),
]
Pairs = Annotated[int, _N]
SomePairs = Annotated[int | None, _N]
Seed = Annotated[int, _SEED]
OtherSeed = Annotated[int | None, _SEED]
Columns = Annotated[
    str | None,
    _option(help="Columns of a file that are called otherwise: clean=prompt,correct=answer.", panel="Pairs"),
]
Unequal = Annotated[
    str,
    _option(
        help=f"Pairs of a file that do not fit the tokenizer: {_explained(UNEQUAL)}.",
        autocompletion=one_of(UNEQUAL),
        panel="Pairs",
    ),
]
Align = Annotated[
    str | None,
    _option(
        help="A file's pairs may have prompts of different lengths, for effects at spans; of spans of unequal lengths: "
        f"{_explained(ALIGNED)}.",
        autocompletion=one_of(ALIGNED),
        panel="Pairs",
    ),
]
Corruption = Annotated[
    str | None,
    _option(
        help=f"How the corrupted prompts are made. {_CORRUPTIONS}. Default: the first.",
        autocompletion=one_of(dict.fromkeys(kind for kinds in CORRUPTIONS.values() for kind in kinds)),
        panel="Pairs",
    ),
]
Digits = Annotated[
    int | None,
    _option(help="arithmetic: sums of numbers of so many digits, 1 to 9, under logprob or prob.", panel="Pairs"),
]
Metric = Annotated[
    str | None,
    _option(
        help=f"{_or(METRICS)}; neg_kl_t2: at temperature 2; or a function of the logits in a file of your own: "
        "metrics.py:surprise. Default: the task's own.",
        autocompletion=one_of(METRICS),
        panel="Pairs",
    ),
]
Read = Annotated[
    str,
    _option(
        help="Where the prompts of a file are read: a position (-3: the third from the end), all, or text: every token "
        "as the answer to what stands before it.",
        panel="Pairs",
    ),
]
Over = Annotated[
    str | None,
    _option(
        help=f"What becomes of several positions: {_or(COMBINED)}.", autocompletion=one_of(COMBINED), panel="Pairs"
    ),
]
Unpaired = Annotated[
    bool, _option("--unpaired", help="A file's prompts have no counterpart: use --ablation zero, mean.", panel="Pairs")
]

# ---- which model ----------------------------------------------------------------------------------------------------

_MODEL = _option(
    *("--model", "-m"),
    help=f"{', '.join(PACKAGED)}, a hub id, a folder or a .gguf file. See `veracausa models`.",
    autocompletion=models,
    panel="Model",
)
ModelName = Annotated[str, _MODEL]
OtherModel = Annotated[str | None, _MODEL]
Device = Annotated[
    str | None,
    _option(help="cpu, cuda, … Default: a GPU if there is one.", autocompletion=one_of(("cpu", "cuda")), panel="Model"),
]
Dtype = Annotated[
    str | None,
    _option(help=f"{_or(DTYPES)}. Default: {DTYPES[0]}.", autocompletion=one_of(DTYPES), panel="Model"),
]

Anatomy = Annotated[
    str | None,
    _option(
        help="Family to read the model as, or a .json file that says where its parts lie: for models of no known "
        "family. `veracausa check` proposes one.",
        metavar="NAME or FILE",
        panel="Model",
    ),
]

# ---- what comes out -------------------------------------------------------------------------------------------------

_OUT = _option(help="Folder for results; a killed run continues from it.", parser=at, metavar="DIR", panel="Output")
Out = Annotated[Path | None, _OUT]
Folder = Annotated[Path, _OUT]
Json = Annotated[
    bool, _option("--json", help="Print JSON instead of text, and nothing else on standard output.", panel="Output")
]
Csv = Annotated[bool, _option("--csv", help="Print the whole table as CSV.", panel="Output")]
Rows = Annotated[int, _count(help="How many rows of the table to print.", min=0, panel="Output")]
Show = Annotated[int, _count(help="How many pairs to print.", min=0, panel="Output")]

# ---- units, and what is done to them --------------------------------------------------------------------------------

Units = Annotated[
    str,
    _option(
        help=f"{', '.join(_ALL_KINDS)}; each also per position (heads@positions) and at the task's spans (heads@spans, "
        "heads@S2); or names with commas: a20.h0,a17.h4@S2. Names with + are one patch: a20.h0+m3@5-8. Components "
        "of weights: m20.down.c0-31, a17.h4.ov0. Cells of a pattern: patterns@cells, 'a17.h4<pattern>@9,4'. Edges and "
        "paths: 'a17.h4->m18', 'a17.h4->a20.h0<v>->logits', 'a17.h4->...->a20.h0'.",
        autocompletion=several_of(_ALL_KINDS),
    ),
]
Dictionaries = Annotated[
    list[str] | None,
    _option(
        "--dictionary",
        help="Features or directions whose parts are units (features, f10.1234, f10.error): a folder or file, or the "
        "name of one that comes along; of a folder of circuit-tracer's transcoders all layers. PATH@r10 says its site, "
        "PATH@m10:mlp a name, too. May be given several times.",
        metavar="PATH[@SITE]",
    ),
]
Components = Annotated[
    list[str] | None,
    _option(
        "--components",
        help="Components of weights that are units beside singular directions and single weights, which names say: "
        "a9.q@lora (ranks of the adapters), m5.down@FILE (factors m5.down.U and m5.down.V), m5.down with --against; "
        "MAPS@FILE:spd names the set. May be given several times.",
        metavar="MAPS[@WHAT]",
    ),
]
Against = Annotated[
    str | None,
    _option(
        "--against",
        help="Another checkpoint of the same architecture: components are parts of the difference (m5.down.diff0).",
        metavar="MODEL",
        autocompletion=models,
    ),
]
Kinds = Annotated[
    str, _option("--units", help=f"Kinds with commas: {', '.join(KINDS)}.", autocompletion=several_of(KINDS))
]
Names = Annotated[
    str, _option("--units", help="Names of heads, attention layers, MLPs or neurons, with commas: a20.h0,a17,m29.n7")
]
Ablation = Annotated[
    str,
    _option(help=f"What stands in the place: {_explained(ABLATIONS)}.", autocompletion=one_of(ABLATIONS)),
]
AnyAblation = Annotated[
    str,
    _option(
        "--ablation",
        help=f"What stands in the place: {_explained(ABLATIONS | INSTEAD)}. own and added need --tensor.",
        autocompletion=one_of((*ABLATIONS, *INSTEAD)),
    ),
]
TensorFile = Annotated[
    str | None,
    _option(
        "--tensor",
        help="Your tensors: a .safetensors or .npz file with one a unit, by the unit's name; FILE:key takes one of "
        "them for every unit.",
        metavar="FILE[:KEY]",
    ),
]
Scale = Annotated[
    float | None,
    _number(
        help="How much is added: multiples of the vector, or of the unit's own standard deviation for noise (default: "
        "1); of scaled the factor."
    ),
]
Draws = Annotated[int | None, _count(help="Draws of the noise, of which numbers are the mean. Default: 8.", min=1)]
NoiseDraws = Annotated[int, _count("--draws", help="Draws of the noise, of which numbers are the mean.", min=1)]
Span = Annotated[
    str,
    _option(metavar="SPAN", help="What is noised: a span of the task by its name, or positions with commas: 3,4,-1."),
]
Restored = Annotated[
    str, _option("--units", help=f"What is restored: {_explained(RESTORED)}.", autocompletion=one_of(RESTORED))
]
Window = Annotated[int, _count(help="Layers restored together, around each state's.", min=1)]
Sd = Annotated[float, _number(help="Of the noise, in units of the embeddings' own standard deviation.")]
Steered = Annotated[
    str | None,
    _option(
        "--units",
        help="Names of one kind, with commas, also at positions: r10,r12@5. Default: all that have a tensor.",
    ),
]
Scales = Annotated[str, _option(metavar="X,X", help="Multiples of the vectors, with commas.")]
Reference = Annotated[
    Path | None,
    _option(
        "--reference",
        help="Prompts that means, other prompts' values and the size of noise come from: a file with a sentence a line "
        f"(.txt), or a table ({', '.join(REFERENCE_FILES[1:])}) with a column text. Default: the pairs' own.",
        parser=at,
        metavar="FILE",
    ),
]
Ablations = Annotated[
    str,
    _option(
        help=f"With commas: {_explained({name: ABLATIONS[name] for name in UNLEARNED})}.",
        autocompletion=several_of(UNLEARNED),
    ),
]
Direction = Annotated[
    str, _option(help=f"What is patched: {_explained(DIRECTIONS)}.", autocompletion=one_of(DIRECTIONS))
]
TopTokens = Annotated[
    int, _count("--tokens", help="How many of the likeliest tokens to keep at every point; 0: the metric alone.", min=0)
]
SplitLayers = Annotated[
    str | None, _option(metavar="L,L", help="Layers whose MLPs are split into neurons, with commas.")
]
Positions = Annotated[bool, _option("--positions", help="Also by position: heads by the key that they look at.")]
Together = Annotated[bool, _option(help="Ablate all units at once, too.")]
NewTokens = Annotated[int, _count(help="Tokens to generate; 1 decides for answers of one token.", min=1)]

# ---- estimates, their receipts, circuits ----------------------------------------------------------------------------

_OF_EDGES = ", ".join(f"{edge} for {node}" for node, edge in NODES_ONLY.items())
Method = Annotated[
    str,
    _option(
        help=f"{_or(ESTIMATES)}; of --units edges {_OF_EDGES}, or ifr. See `veracausa methods`.",
        autocompletion=one_of(dict.fromkeys((*ESTIMATES, *EDGE_PRESETS, "ifr"))),
    ),
]
Methods = Annotated[
    str, _option(help=f"all, or with commas: {', '.join(ESTIMATES)}.", autocompletion=several_of(("all", *ESTIMATES)))
]
EdgeMethod = Annotated[
    str,
    _option(
        *("--method",),
        help=f"What scores the edges: {_or(SCORED_BY)}. See `veracausa methods`.",
        autocompletion=one_of(SCORED_BY),
    ),
]
Baseline = Annotated[
    str | None,
    _option(help=f"What units move towards: {_or(BASELINES)}. Default: corrupted.", autocompletion=one_of(BASELINES)),
]
Nodes = Annotated[int | None, _count(help="Points on the path. Default: the method's own.")]
Minutes = Annotated[float | None, _number(help="Time to take; what does not fit is listed as left out.")]
Edges = Annotated[int, _count(help="Edges asked for; dead ends are pruned.")]
How = Annotated[
    str,
    _option(
        help=f"How edges are chosen by their scores: {_or(HOW)}. See `veracausa methods`.", autocompletion=one_of(HOW)
    ),
]
Sizes = Annotated[
    str | None,
    _option(metavar="X,X", help="Shares of the edges to run circuits of, with commas. Default: ten, from 0.001 to 1."),
]
Budgets = Annotated[
    str,
    _option(
        metavar="X,X",
        help=f"What the adversary may do, with commas: {_explained(BUDGETS)}.",
        autocompletion=several_of(BUDGETS),
    ),
]
Rankings = Annotated[
    str,
    _option(
        metavar="X,X",
        help=f"What scores the edges, with commas: {_or(SCORED_BY)}, or random.",
        autocompletion=several_of((*SCORED_BY, "random")),
    ),
]
BoardParts = Annotated[
    str | None,
    _option(
        metavar="X,X",
        help=f"What is run for every ranking, with commas: {_or(BOARD)}. Default: all, specificity with --tasks.",
        autocompletion=several_of(BOARD),
    ),
]
OtherTasks = Annotated[
    str | None,
    _option(
        metavar="TASK,TASK",
        help="Other tasks to ablate the circuits on, with commas.",
        autocompletion=several_of(BUILTIN),
    ),
]
Share = Annotated[float, _number(help="Share of the edges of the circuits that are attacked and ablated.")]
RandomCircuits = Annotated[int, _count("--draws", help="Random circuits of the same layer profile for each.", min=0)]
Attacked = Annotated[
    bool, _option("--attack", help="Also ask an adversary how many other edges, restored, break the circuit.")
]
ByPosition = Annotated[
    bool, _option("--positions", help="Also score the circuit's edges at every position; the page draws them there.")
]
EachPair = Annotated[bool, _option("--each", help="Also let each pair have weights of its own.")]
Verify = Annotated[bool, _option("--verify", help="Check it against exact effects; print a receipt.", panel="Receipt")]
Top = Annotated[int, _count(help="How many of the strongest to verify by exact effects.", min=0, panel="Receipt")]
Sample = Annotated[int, _count(help="How many of the others, drawn at random, to verify.", min=0, panel="Receipt")]
Tau = Annotated[float, _number(help="A unit is strong above this share of the gap.", panel="Receipt")]
UntilMissed = Annotated[
    int | None, _count(help="Go on verifying until at most so many strong units can be missed.", panel="Receipt")
]
Budget = Annotated[
    float | None,
    _number(help="Largest share of the cost of exact effects of all units to spend on the receipt.", panel="Receipt"),
]
Quick = Annotated[bool, _option("--quick", help="Under a minute: heads and MLPs of a few pairs.")]
Interactions = Annotated[
    str | None,
    _option("--interactions", metavar="KIND", help="Which layers talk to each other: of heads, or heads:9,heads:12."),
]
Circuit = Annotated[
    bool,
    _option("--circuit", help="Which parts feed which: all edges, circuits of ten sizes, live."),
]
Full = Annotated[bool, _option("--full", help="All neurons, 10,000 prompts, all searches: an hour or more.")]
