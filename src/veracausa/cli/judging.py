"""Commands that judge circuits side by side: a scoreboard of rankings, circuits ablated on each other's tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from veracausa.circuits.scoreboards.columns import PARTS
from veracausa.cli.checks import columns_of, require_edge_method, require_folder, require_task, several
from veracausa.cli.command import spread
from veracausa.cli.estimate_options import BoardParts, OtherTasks, RandomCircuits, Rankings, Share
from veracausa.cli.options import HeldOut, OtherModel, Out
from veracausa.cli.output import body_of, finish
from veracausa.cli.setup import ModelSetup, Setup
from veracausa.errors import MethodError
from veracausa.extras import require_extra
from veracausa.storage.files import at
from veracausa.suggestions import not_known
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa import choices
    from veracausa.circuits.quality.specificity import Specificity
    from veracausa.circuits.scoreboards.board import Scoreboard


@spread
def scoreboard(
    setup: Setup,
    rankings: Rankings = "eap,eap-ig,iterated,random",
    parts: BoardParts = None,
    tasks: OtherTasks = None,
    size: Share = 0.02,
    held_out: HeldOut = None,
) -> None:
    """Judge rankings of edges side by side: faithfulness, flipped answers, an adversary's radius, specificity, price.

    Edges are scored on half of the pairs, and judged on the other half. With --tasks the circuits are also ablated on
    other tasks. What is finished is kept in the folder, which gets a page (report.html); a killed run goes on from it.
    """
    from veracausa.circuits.scoreboards.judging import scoreboard as run
    from veracausa.discovery.rankings import RANDOM
    from veracausa.discovery.rankings import rankings as ranked

    names, chosen, apart = several(rankings), several(parts or ""), several(tasks or "")
    for name in names:
        if name != RANDOM:
            require_edge_method(name)
    if set(names) <= {RANDOM}:
        raise MethodError("rankings=random draws the edges of another ranking. Name one beside it.")
    for part in chosen:
        if part not in PARTS:
            raise MethodError(not_known("part of a scoreboard", part, PARTS))
    for other in (*apart, *([held_out] if held_out else [])):
        require_task(other, setup.metric, columns_of(setup.columns))
    _require_drawn(setup.out)
    lm, task = setup.ready()
    scored, judged = (task, setup.build(lm, held_out, setup.seed + 1)) if held_out else task.split(0.5, setup.seed)
    others = {name: setup.build(lm, name) for name in apart}
    edges = max(1, round(size * lm.graph.size))
    found = ranked(lm, scored, names, edges=edges, seed=setup.seed, out=setup.out, show=True)
    board = run(
        lm, judged, found, parts=cast("list[choices.BoardPart]", chosen) or None, tasks=others or None, size=size,
        seed=setup.seed, out=setup.out,
    )  # fmt: skip
    finish(
        setup.json,
        lambda: echo(f"{board}\n\n" + "\n".join(board.sentences)),
        lambda: body_of(board),
        lambda folder: _with_page(board, folder / "scoreboard.json"),
        setup.out,
        " and report.html",
    )


class AcrossSetup(ModelSetup):
    """The setup of circuits that were found before: what is not given is their own."""

    model: OtherModel = None  # type: ignore[assignment]
    out: Out = None


@spread
def specificity(
    setup: AcrossSetup,
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of `veracausa discover`, each of a task.", parser=at)
    ],
    draws: RandomCircuits = 3,
) -> None:
    """Ablate the circuits of several tasks on each other's held-out pairs, beside random circuits like them.

    A folder --out gets the result and its page (report.html).
    """
    from veracausa.circuits.quality.across_tasks import specificity as run
    from veracausa.discovery.files import load_discovery

    require_folder(setup.out)
    _require_drawn(setup.out)
    found = {folder.name: load_discovery(folder) for folder in folders}
    if len(found) < len(folders):
        raise MethodError("Circuits are named after their folders here, and two of these have one name.")
    first = next(iter(found.values()))
    lm = setup.but(model=setup.model or first.circuit.model["name"]).load_model()
    tasks = {name: one.evaluation.pairs for name, one in found.items()}
    matrix = run(lm, tasks, {name: one.circuit for name, one in found.items()}, draws=draws, out=setup.out)
    finish(
        setup.json,
        lambda: echo(f"{matrix}\n\n" + "\n".join(matrix.sentences)),
        lambda: body_of(matrix),
        lambda folder: _with_page(matrix, folder / "specificity.safetensors"),
        setup.out,
        " and report.html",
    )


def _require_drawn(out: Path | None) -> None:
    """Raise where a page is to be written and cannot be drawn."""
    if out is not None:
        require_extra("charts")


def _with_page(found: Scoreboard | Specificity, path: Path) -> Path:
    """Write a result, and its page beside it."""
    found.save(path)
    found.page(path.parent / "report.html")
    return path
