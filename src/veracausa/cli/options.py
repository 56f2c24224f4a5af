"""The options of all commands, each with one name, one type and one help text, made from the library's own tables.

Nothing here needs torch, so that `--help` answers at once. Commands give the defaults. Here are pairs, models
and output, in `unit_options` and `estimate_options` the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from veracausa.cli.choices import models, one_of, tasks
from veracausa.loading.wheels import PACKAGED
from veracausa.storage.files import at
from veracausa.tasks.aligned import ALIGNED
from veracausa.tasks.columns import COLUMNS, UNEQUAL
from veracausa.tasks.custom import PUBLISHED
from veracausa.tasks.files import ENDINGS
from veracausa.tasks.metrics import COMBINED, METRICS
from veracausa.tasks.registry import BUILTIN, CORRUPTIONS

#: Precisions to load in; the first where none is named, the last: that of the file.
DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")


def any_of(names: Iterable[str]) -> str:
    """a, b or c."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def explained(table: dict[str, str]) -> str:
    """A table of names in words: "zero (zeros), mean (its mean over the prompts)"."""
    return ", ".join(f"{name} ({words})" for name, words in table.items())


def option(*names: str, panel: str | None = None, metavar: str = "NAME", **more: Any) -> Any:
    """One option, under a heading of the help text: `panel`."""
    return typer.Option(*names, rich_help_panel=panel, metavar=metavar, **more)


count, number = partial(option, metavar="N"), partial(option, metavar="X")

# ---- which pairs ----------------------------------------------------------------------------------------------------

_TASKS = (
    f"{', '.join((*BUILTIN, PUBLISHED))}; or a file of pairs ({', '.join(ENDINGS)}) with the columns "
    f"{', '.join(COLUMNS)}. See `veracausa tasks`."
)
_CORRUPTIONS = "; ".join(f"{task}: {any_of(kinds)}" for task, kinds in CORRUPTIONS.items())
_SEED = count(help="Seed of the pairs, and of all that is drawn at random.", min=0, panel="Pairs")
_N = count("--n", help="How many pairs of a built-in task to make; a file is taken whole.", min=1, panel="Pairs")

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help=f"{_TASKS} Also given as --task TASK.", autocompletion=tasks)
]
OtherTask = Annotated[str | None, option("--task", help=_TASKS, autocompletion=tasks, panel="Pairs")]
HeldOut = Annotated[
    str | None,
    option(metavar="TASK", help="A task or file to evaluate on. Default: half of the pairs.", autocompletion=tasks),
]
Pairs = Annotated[int, _N]
SomePairs = Annotated[int | None, _N]
Seed = Annotated[int, _SEED]
OtherSeed = Annotated[int | None, _SEED]
Columns = Annotated[
    str | None,
    option(help="Columns of a file that are called otherwise: clean=prompt,correct=answer.", panel="Pairs"),
]
Unequal = Annotated[
    str,
    option(
        help=f"Pairs of a file that do not fit the tokenizer: {explained(UNEQUAL)}.",
        autocompletion=one_of(UNEQUAL),
        panel="Pairs",
    ),
]
Align = Annotated[
    str | None,
    option(
        help="A file's pairs may have prompts of different lengths, for effects at spans; of spans of unequal lengths: "
        f"{explained(ALIGNED)}.",
        autocompletion=one_of(ALIGNED),
        panel="Pairs",
    ),
]
Corruption = Annotated[
    str | None,
    option(
        help=f"How the corrupted prompts are made. {_CORRUPTIONS}. Default: the first.",
        autocompletion=one_of(dict.fromkeys(kind for kinds in CORRUPTIONS.values() for kind in kinds)),
        panel="Pairs",
    ),
]
Digits = Annotated[
    int | None,
    count(help="arithmetic: sums of numbers of so many digits, 1 to 9, under logprob or prob.", panel="Pairs"),
]
Metric = Annotated[
    str | None,
    option(
        help=f"{any_of(METRICS)}; neg_kl_t2: at temperature 2; or a function of the logits in a file of your own: "
        "metrics.py:surprise. Default: the task's own.",
        autocompletion=one_of(METRICS),
        panel="Pairs",
    ),
]
Read = Annotated[
    str,
    option(
        help="Where the prompts of a file are read: a position (-3: the third from the end), all, or text: every token "
        "as the answer to what stands before it.",
        panel="Pairs",
    ),
]
Over = Annotated[
    str | None,
    option(
        help=f"What becomes of several positions: {any_of(COMBINED)}.", autocompletion=one_of(COMBINED), panel="Pairs"
    ),
]
Unpaired = Annotated[
    bool, option("--unpaired", help="A file's prompts have no counterpart: for --ablation zero or mean.", panel="Pairs")
]

# ---- which model ----------------------------------------------------------------------------------------------------

_MODEL = option(
    *("--model", "-m"),
    help=f"{', '.join(PACKAGED)}, a hub id, a folder or a .gguf file. See `veracausa models`.",
    autocompletion=models,
    panel="Model",
)
ModelName = Annotated[str, _MODEL]
OtherModel = Annotated[str | None, _MODEL]
Device = Annotated[
    str | None,
    option(
        help="cpu, cuda, … or auto (spread over all GPUs). Default: a GPU if there is one.",
        autocompletion=one_of(("cpu", "cuda", "auto")),
        panel="Model",
    ),
]
Dtype = Annotated[
    str | None,
    option(help=f"{any_of(DTYPES)}. Default: {DTYPES[0]}.", autocompletion=one_of(DTYPES), panel="Model"),
]

Anatomy = Annotated[
    str | None,
    option(
        help="Family to read the model as, or a .json file that says where its parts lie: for models of no known "
        "family. `veracausa check` proposes one.",
        metavar="NAME or FILE",
        panel="Model",
    ),
]

Memory = Annotated[
    str | None,
    option(
        metavar="SIZE", help="Work within so much memory beside the weights: 8GB. Default: what is free.", panel="Model"
    ),
]

# ---- what comes out -------------------------------------------------------------------------------------------------

_OUT = option(help="Folder for results; a killed run continues from it.", parser=at, metavar="DIR", panel="Output")
Out = Annotated[Path | None, _OUT]
Folder = Annotated[Path, _OUT]
Json = Annotated[
    bool, option("--json", help="Print JSON instead of text, and nothing else on standard output.", panel="Output")
]
Csv = Annotated[bool, option("--csv", help="Print the whole table as CSV.", panel="Output")]
Rows = Annotated[int, count(help="How many rows of the table to print.", min=0, panel="Output")]
Show = Annotated[int, count(help="How many pairs to print.", min=0, panel="Output")]

# ---- how much a study does ------------------------------------------------------------------------------------------

Quick = Annotated[bool, option("--quick", help="Under a minute: heads and MLPs of a few pairs.")]
Interactions = Annotated[
    str | None,
    option("--interactions", metavar="KIND", help="Which layers talk to each other: of heads, or heads:9,heads:12."),
]
Circuit = Annotated[
    bool,
    option("--circuit", help="Which parts feed which: all edges, circuits of ten sizes, live."),
]
Full = Annotated[bool, option("--full", help="All neurons, 10,000 prompts, all searches: an hour or more.")]
