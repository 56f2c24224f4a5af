"""Commands that ask many questions at once and write a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from veracausa.cli.command import spread
from veracausa.cli.estimate_options import ByPosition, Methods, Minutes
from veracausa.cli.laying import LayingOptions
from veracausa.cli.options import Circuit, Full, Interactions, Quick, SomePairs
from veracausa.cli.output import finish, rows_of, took
from veracausa.cli.setup import PageSetup
from veracausa.cli.unit_options import Kinds
from veracausa.errors import MethodError
from veracausa.studies.levels import LEVELS
from veracausa.tasks.custom import PUBLISHED
from veracausa.terminal import echo, say

if TYPE_CHECKING:
    from veracausa import choices
    from veracausa.studies.results import Study


class StudySetup(PageSetup):
    """The setup of a study, whose size says how many pairs it takes where nobody does."""

    n: SomePairs = None  # type: ignore[assignment]


@spread
def study(
    setup: StudySetup,
    laying: LayingOptions,
    quick: Quick = False,
    full: Full = False,
    interactions: Interactions = None,
    circuit: Circuit = False,
    positions: ByPosition = False,
) -> None:
    """Exact effects against gradient estimates: where they disagree and why, as one offline page."""
    from veracausa.studies.study import study as run

    if quick and full:
        raise MethodError("--quick and --full are two sizes of a study; give one of them.")
    if positions and not circuit:
        raise MethodError("--positions draws a study's circuit over positions, too: --circuit asks for one.")
    level = LEVELS["quick" if quick else "full" if full else "default"]
    setup = setup.but(n=setup.n or level.pairs)
    lm, task = setup.ready()
    lm, tasks = laying.on(lm), [task]
    if setup.task == "ioi" and not quick:
        tasks.insert(0, setup.build(lm, PUBLISHED))
        say(f"task   {tasks[0].describe()}")
    page = run(
        lm, tasks, level=level, interactions=interactions, circuit=circuit, positions=positions, seed=setup.seed,
        out=setup.out,
    )  # fmt: skip
    finish(setup.json, lambda: _told(page), lambda: _body(page), page.save, setup.out)


@spread
def compare(
    setup: PageSetup, units: Kinds = "heads,neurons", methods: Methods = "all", minutes: Minutes = None
) -> None:
    """Which method to take: all estimates against exact effects, with cost and stability, as a table and a page."""
    from veracausa.studies.compare import compare as run
    from veracausa.studies.compare import require_compared

    kinds, chosen = units.split(","), "all" if methods == "all" else methods.split(",")
    require_compared(kinds, chosen, minutes)
    lm, task = setup.ready()
    page = run(
        lm,
        task,
        units=cast("list[choices.AllUnits]", kinds),
        methods=chosen,
        budget=minutes,
        seed=setup.seed,
        out=setup.out,
    )
    finish(setup.json, lambda: _told(page, tables=True), lambda: _body(page), page.save, setup.out)


def _told(page: Study, tables: bool = False) -> None:
    """The summary of a study; with `tables` what each panel found, first."""
    if tables:
        for title, table in _panels(page):
            echo(f"\n{title}\n{table.round(4).to_string(index=False, na_rep='')}")
    for sentence in (*page.summary, *page.notes):
        echo(f"• {sentence}")
    echo(f"\n{took(page.seconds)}")


def _panels(page: Study) -> list[tuple[str, Any]]:
    import pandas as pd

    from veracausa.studies.compare import table

    return [
        (f"{panel.kind} of {section.task.describe()}", pd.DataFrame(table(panel)))
        for section in page.sections
        for panel in section.panels
    ]


def _body(page: Study) -> dict[str, Any]:
    return {
        "result": "Study",
        "title": page.title,
        "model": page.model,
        "sentences": [*page.summary, *page.notes],
        "tables": [{"title": title, "table": rows_of(table)} for title, table in _panels(page)],
        "seconds": page.seconds,
    }
