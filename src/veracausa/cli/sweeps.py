"""The command about sweeps: a plan done, a folder's state told, its results merged."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from veracausa.cli.checks import require_folder
from veracausa.cli.choices import named
from veracausa.cli.options import Json, Memory, Out
from veracausa.cli.output import print_json
from veracausa.errors import FileError, MethodError
from veracausa.sweeps.runners import RUNNERS, STARTERS
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.sweeps.results import Sweep
    from veracausa.sweeps.sweep import Runner

#: What can be done with a sweep's folder.
_VERBS = ("status", "merge", "export", "page")

What = Annotated[
    list[str],
    typer.Argument(
        metavar="PLAN | status|merge|export|page DIR", help="A plan (TOML), or what to do with a sweep's folder."
    ),
]
RunnerName = Annotated[
    str,
    named(
        (*RUNNERS, *STARTERS),
        f"Who does it: {', '.join(f'{name} ({said})' for name, said in RUNNERS.items())}; {' and '.join(STARTERS)} say "
        "what to type.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="How many, of pool or ray. Default: one a processor.")
]
OnlyForecast = Annotated[bool, typer.Option("--forecast", help="Cut the sweep and say what it costs; run nothing.")]


def sweep(
    what: What,
    out: Out = None,
    runner: RunnerName = "local",
    workers: Workers = None,
    memory: Memory = None,
    forecast: OnlyForecast = False,
    json: Json = False,
) -> None:
    """Do what a plan asks: models × tasks × questions, cut into items that any number of processes may do at once.

    `veracausa sweep plan.toml --out DIR` begins a sweep, or goes on with it; `sweep status DIR` says how far it is,
    `sweep merge DIR` writes the results of all cells that are done, `sweep export DIR` their scores as Parquet, and
    `sweep page DIR` a page with the grid of all cells.
    """
    from veracausa.sweeps.results import open_sweep
    from veracausa.sweeps.sweep import sweep as run

    verb, folder = (what[0], what[1]) if len(what) == 2 and what[0] in _VERBS else ("", "")
    if verb:
        found = open_sweep(folder)
        if verb != "status":
            _DOES[verb](found, out, json)
            return
    elif len(what) > 1:
        known = ", ".join(f"`{verb} DIR`" for verb in _VERBS)
        raise MethodError(f"veracausa sweep takes a plan, or {known}, but this is {' '.join(what)}.")
    elif out is None:
        raise MethodError("A sweep needs a folder: --out DIR.")
    else:
        require_folder(out)
        who = cast("Runner", runner)
        found = _laid(what[0], out) if forecast else run(what[0], out=out, runner=who, workers=workers, memory=memory)
    print_json(_body(found)) if json else echo(found.describe())
    if found.failures:
        raise typer.Exit(1)


def _laid(plan: str, out: Path) -> Sweep:
    from veracausa.sweeps.plan import plan_of
    from veracausa.sweeps.results import Sweep
    from veracausa.sweeps.sweep import laid_out

    return Sweep(laid_out(plan_of(plan), out))


def _exported(found: Sweep, out: Path | None, json: bool) -> None:
    """Write the scores of the cells that are done as Parquet; says where each file is."""
    paths = found.export(out)
    if json:
        print_json({"files": [*map(str, paths)]})
        return
    for path in paths:
        echo(str(path))
    if left := sum(not found.done(cell) for cell in range(len(found))):
        echo(f"{left} of {len(found)} cells are not done yet.")
    elif not paths:
        echo("No cell has scores: Parquet files are of exact effects and estimates.")


def _page(found: Sweep, out: Path | None, json: bool) -> None:
    """Write the page; says where it is."""
    path = found.page(None if out is None else out / "sweep.html")
    print_json({"page": str(path)}) if json else echo(str(path))


def _merged(found: Sweep, out: Path | None, json: bool) -> None:
    """Write the results of the cells that are done, into the sweep's folder or another one; says where each is."""
    done = [cell for cell in range(len(found)) if found.done(cell)]
    paths = {}
    for cell in done:
        result, path = found[cell], found.folder.result(cell)
        if out is not None:
            path = out / path.name
            result.save(path)
        if not path.exists():
            raise FileError(f"{path} cannot be written. Name another folder for the results: --out DIR.")
        paths[found.names[cell]] = str(path)
    if json:
        print_json({"results": paths, "left": len(found) - len(done)})
        return
    for name, place in paths.items():
        echo(f"{name}\n  {place}")
    if left := len(found) - len(done):
        echo(f"{left} of {len(found)} cells are not done yet.")


#: What to do with a sweep's folder → how.
_DOES = {"merge": _merged, "export": _exported, "page": _page}


def _body(found: Sweep) -> dict[str, Any]:
    return {
        "result": "Sweep",
        "folder": str(found.folder.path),
        "finished": found.finished,
        "sentences": [*found.sentences],
        "table": found.table().to_dict("records"),
    }
