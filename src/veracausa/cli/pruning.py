"""The command that cuts parts out of a model, judges what is left, and writes a smaller checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veracausa.cli.checks import columns_of, require_task, shares_of
from veracausa.cli.choices import named, one_of, several_of
from veracausa.cli.command import spread
from veracausa.cli.foretelling import foretold
from veracausa.cli.options import HeldOut
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.setup import Setup
from veracausa.pruning.names import ABLATIONS, KINDS, PYTHON, RANKINGS
from veracausa.storage.files import at
from veracausa.tasks.registry import BUILTIN
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.pruning.exported import Exported
    from veracausa.pruning.pruned import Pruned

_WORTH = ", ".join(f"{name} ({words})" for name, words in RANKINGS.items())
Units = Annotated[
    str,
    typer.Option(
        metavar="KIND", help=f"What is cut: {', '.join(KINDS)}; or one of attention and one of MLPs: heads+neurons.",
        autocompletion=one_of(KINDS),
    ),
]  # fmt: skip
How = Annotated[
    str,
    typer.Option(
        metavar="NAME,NAME", help=f"What a part is worth, with commas: {_WORTH}. The first makes the cut.",
        autocompletion=several_of(RANKINGS),
    ),
]  # fmt: skip
CutShare = Annotated[float, typer.Option("--share", metavar="X", help="Share of the parts' parameters to cut.")]
Sizes = Annotated[
    str | None, typer.Option(metavar="X,X", help="Further shares at which all rankings are judged, with commas.")
]
Ablation = Annotated[str, named(ABLATIONS, "What stands in a cut part's place: zero or mean (a bias).")]
Rounds = Annotated[int, typer.Option(metavar="N", help="Rank anew so often on the way, with what went cut out.", min=1)]
PerLayer = Annotated[
    bool, typer.Option("--per-layer", help="Cut the same number in every layer, so that a checkpoint has no padding.")
]
Text = Annotated[
    str, typer.Option(metavar="FILE", help=f"Plain text to judge on: a file, {PYTHON} (its documentation) or none.")
]
TextTokens = Annotated[int, typer.Option("--text-tokens", metavar="N", help="Tokens of that text.", min=1)]
Others = Annotated[
    str | None,
    typer.Option(
        "--also", metavar="TASK,TASK", help="Other tasks, with commas: a part that any of them needs stays.",
        autocompletion=several_of(BUILTIN),
    ),
]  # fmt: skip
Export = Annotated[
    Path | None,
    typer.Option("--export", metavar="DIR", help="Write the smaller model there, as a checkpoint of transformers.",
                 parser=at),
]  # fmt: skip


@spread
def prune(
    setup: Setup,
    units: Units = "neurons",
    how: How = "fgp",
    share: CutShare = 0.2,
    sizes: Sizes = None,
    ablation: Ablation = "zero",
    rounds: Rounds = 1,
    per_layer: PerLayer = False,
    also: Others = None,
    held_out: HeldOut = None,
    text: Text = PYTHON,
    text_tokens: TextTokens = 4096,
    export: Export = None,
) -> None:
    """Cut out what a task does without, judge what is left by exact runs, and export it as a smaller checkpoint.

    Half of the pairs are ranked on, the other half judged on. The folder --out has a page (report.html), the result,
    and its figures as CSV; a killed run goes on from it.
    """
    from veracausa.pruning.exporting import require_new
    from veracausa.pruning.pruner import prune as run

    if export is not None:
        require_new(export)
    names = [one.strip() for one in (also or "").split(",") if one.strip()]
    for name in (*names, *([held_out] if held_out else [])):
        require_task(name, setup.metric, columns_of(setup.columns))
    lm, task = setup.ready()
    tasks = [task, *(setup.build(lm, name) for name in names)]
    asked: dict[str, Any] = {
        "how": [one.strip() for one in how.split(",")], "units": units, "share": share, "sizes": shares_of(sizes),
        "ablation": ablation, "rounds": rounds, "per_layer": per_layer, "text": None if text == "none" else text,
        "tokens": text_tokens, "seed": setup.seed,
    }  # fmt: skip
    if held_out:
        asked["held_out"] = [
            setup.build(lm, held_out, setup.seed + 1),
            *(setup.build(lm, name, setup.seed + 1) for name in names),
        ]
    found: Pruned = foretold(run, lm, tasks if names else task, {"out": setup.out}, **asked)
    done = None if export is None else found.export(lm, export)

    def show() -> None:
        echo(f"{found.table().round(3).to_string(index=False, na_rep='–')}\n\n" + "\n".join(found.sentences))
        if done is not None:
            echo(f"\n{done.describe()}")

    finish(
        setup.json, show, lambda: body_of(found) | {"exported": None if done is None else done.describe()},
        lambda out: _kept(found, done, out), setup.out, " and report.html",
    )  # fmt: skip


def _kept(found: Pruned, done: Exported | None, out: Path) -> Path:
    """Write everything; says where the result is."""
    path = with_csv(found.save(out / "pruned.safetensors"), found.table())
    found.page(out / "report.html", done)
    return path
