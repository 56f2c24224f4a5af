"""Pages of what judges circuits: a scoreboard of rankings, an attack, circuits ablated on each other's tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np

from veracausa.circuits.attacks.attack import INSIDE, Attack, shown_amount
from veracausa.circuits.attacks.budgets import BUDGETS
from veracausa.circuits.quality.specificity import Specificity
from veracausa.circuits.scoreboards.board import Cell, Scoreboard
from veracausa.circuits.scoreboards.columns import COLUMNS, NEITHER, SMALLER
from veracausa.report.charts.attacks import attack_figure
from veracausa.report.charts.figures import Figure
from veracausa.report.charts.scoreboards import price_part, scoreboard_part
from veracausa.report.charts.specificities import specificity_figure
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.single import Single, single
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import Column, Table
from veracausa.storage.files import at, write_text
from veracausa.words import counted, plain, whole

#: What such a page is about.
Judged = Scoreboard | Attack | Specificity
#: So many circuits have all their sentences at the head of the page.
_FEW = 2

_FAITHFULNESS = (
    "f",
    "How much of the behaviour a circuit holds: 1 as in the whole model, 0 as without any edge, a ratio of means over "
    "the pairs. All parts outside of it are ablated in the same run; everything in it is computed anew.",
)
_NAMES = (
    "± ",
    "One standard error over the pairs. Nothing here speaks of other pairs of another kind, or other models.",
)


def write_page(found: Judged, path: str | Path) -> Path:
    """Write the page as one offline file (public as `Scoreboard.page`, `Attack.page`, `Specificity.page`).

    Raises:
        FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(found))


def page(found: Judged) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    told = _told(found)
    notes = [*found.notes, *(f"{one}." for one in told.notes)]
    return single(replace(told, notes=notes, counted=", exact runs of circuits"), found.model, found.cost)


@singledispatch
def _told(found: Any) -> Single:
    raise TypeError(f"there is no such page of a {type(found).__name__}")


@_told.register
def _board(found: Scoreboard) -> Single:
    settings = found.settings
    facts = [
        ("Rankings", whole(len(found.rankings))), ("Pairs", whole(int(found.task["n"]))),
        ("Metric", str(found.task["metric"])), ("Circuits judged alone", f"{float(settings['size']):.1%} of the edges"),
        ("Ablation", str(settings.get("ablation", "counterfactual"))),
    ]  # fmt: skip
    grid = Figure(
        "board", "Rankings side by side", (_untitled(scoreboard_part(found, "board")),),
        "Darker is better within a row. Rows that do not say what is better are blank: CPR grows with overshoot.",
        width=620,
    )  # fmt: skip
    priced = spared_figures("price", "What it costs", lambda: _priced(found))
    return Single(
        "scoreboard",
        f"Rankings of the edges of {found.model['name']}, side by side",
        "The board",
        found.task["description"],
        facts,
        [one for one in found.sentences if one.removesuffix(".") not in found.missing],
        [*spared_figures("board", "Rankings side by side", lambda: [grid]), *priced],
        spared_tables("figures", "All figures", lambda: [_figures(found)]),
        (_FAITHFULNESS, ("Bounded", "Overshoot earns nothing: f counts as 1 − min(|1 − f|, 1)."), _radius()),
        ((_NAMES), *((name, COLUMNS[name]) for name in found.columns)),
        found.missing,
    )


def _priced(found: Scoreboard) -> list[Figure]:
    """How good a ranking is for what it costs; nothing where either is not known."""
    part = price_part(found, "price")
    said = "How near to f = 1 circuits of all sizes are, overshoot earning nothing, against what the scores cost."
    return [] if part is None else [Figure("price", "What it costs", (part,), said, width=520)]


def _figures(found: Scoreboard) -> Table:
    """A row for each column of the board: a ranking's figure in each, as text; the CSV has the numbers, too."""
    rows = []
    for column in found.columns:
        better = "" if column in NEITHER else ("smaller" if column in SMALLER else "larger")
        row: dict[str, Any] = {"column": column, "better": better, "says": COLUMNS[column]}
        for number, name in enumerate(found.rankings):
            cell = found.cells[name].get(column, Cell())
            row |= {f"{number}": str(cell), f"{number} value": cell.value, f"{number} stderr": cell.stderr}
        rows.append(row)
    own = [Column(str(number), name) for number, name in enumerate(found.rankings)]
    raw = [
        Column(f"{number} {what}", f"{name}, {what}", "plain", csv_only=True)
        for number, name in enumerate(found.rankings)
        for what in ("value", "stderr")
    ]
    columns = (Column("column", "column"), *own, Column("better", "better"), Column("says", "what it says"), *raw)
    note = "–: missing, and said above why; “>”: no attempt reached it."
    return Table("figures", "All figures", columns, tuple(rows), note)


@_told.register
def _attack(found: Attack) -> Single:
    held = found.held.shape[1]
    facts = [
        ("Circuits", whole(len(found.circuits))), ("Attacked pairs", whole(len(found.measured.gap))),
        ("Held-out pairs", whole(held)), ("Attempts", whole(len(found.attempts))),
        ("Ablation", found.ablation), ("Left out", f"other {found.parts}"),
        ("Goals", ", ".join(map(str, found.settings.get("goals", ())))),
    ]  # fmt: skip
    many = f"{counted(len(found.circuits), 'circuit')} of {found.model['name']}"
    return Single(
        "attack",
        f"What an adversary makes of {many}",
        "The attack",
        found.task["description"],
        facts,
        found.sentences,
        spared_figures("attack", "The attack", lambda: [_drawn(found)]),
        [
            *spared_tables("radii", "Radii", lambda: [_radii(found)]),
            *spared_tables("attempts", "Every amount", lambda: [_attempts(found)]),
        ],
        (
            _FAITHFULNESS,
            (
                "Weights",
                "Every part outside of the circuit carries r times what it writes in this very run, and 1 − r times "
                "what ablates it. r = 0 is the circuit alone, r = 1 on all others the whole model.",
            ),
            _radius(),
        ),
        (
            _NAMES,
            ("sparse", "so many others restored (r = 1), all else at 0"),
            ("bounded", "r up to ε on all others"),
            ("free", "any r, after so many steps of ascent"),
            (
                "chosen by",
                "others restored: by the gradient at the circuit; on the path to the model; greedily, with "
                "what is restored so far; greedy above, with the rest at a sixth as well",
            ),
            ("held out", "the same weights on pairs that the adversary did not see"),
            ("random", "weights drawn at random, with the same budget"),
        ),
    )


def _drawn(found: Attack) -> Figure:
    """The attack drawn; its sentences stand at the head of the page."""
    said = "How low and how high f was brought with at most that amount, beside random weights."
    return replace(attack_figure(found, "attack"), sentence=said)


def _radii(found: Attack) -> Table:
    """The bracket of every radius."""
    rows = []
    for number, name in enumerate(found.circuits):
        for budget in ("sparse", "bounded"):
            for each in (False, True):
                if any((one.circuit, one.budget, one.each) == (number, budget, each) for one in found.attempts):
                    radius = found.radius(budget, number, each=each)
                    ends = tuple(map(shown_amount, radius.interval)) if radius.interval else ("", "")
                    rows.append({
                        "circuit": name, "kept": found.kept[number], "budget": BUDGETS[budget],
                        "weights": "each pair's own" if each else "the same for all",
                        "inside": shown_amount(radius.inside),
                        "outside": "–" if radius.outside is None else shown_amount(radius.outside),
                        "low": ends[0], "high": ends[1],
                    })  # fmt: skip
    columns = (
        Column("circuit", "circuit"), Column("kept", f"its {found.parts}", "whole"), Column("budget", "what counts"),
        Column("weights", "weights"), Column("inside", "over"), Column("outside", "at most"),
        Column("low", "90% from"), Column("high", "to"),
    )  # fmt: skip
    low, high = INSIDE
    note = f"The smallest budget at which f leaves [{low:g}, {high:g}]; no “at most”: no attempt did it. "
    return Table("radii", "Radii", columns, tuple(rows), note + "90%: over draws of the pairs, from 16 on.")


def _attempts(found: Attack) -> Table:
    columns = (
        Column("circuit", "circuit"), Column("budget", "budget"), Column("weights", "weights"),
        Column("amount", "amount"), Column("f", "f", "signed", 3), Column("stderr", "±", "plain", 3),
        Column("by", "chosen by"), Column("way", "pushed"), Column("random", "random", "signed", 3),
        Column("held_out", "held out", "signed", 3), Column("held_stderr", "±", "plain", 3),
        Column("lowest", "lowest", "signed", csv_only=True), Column("highest", "highest", "signed", csv_only=True),
    )  # fmt: skip
    note = "f of the strongest attempt with at most this amount."
    rows = tuple(row | {"amount": shown_amount(row["amount"])} for row in rows_of(found.table()))
    return Table("attempts", "Every amount", columns, rows, note)


@_told.register
def _specificity(found: Specificity) -> Single:
    draws = found.metrics[0].shape[1] - 1
    pairs = [len(one.gap) for one in found.ends]
    facts = [
        ("Circuits" if found.of == "edges" else "Sets", whole(len(found.circuits))), ("Tasks", whole(len(found.tasks))),
        ("Pairs a task", whole(pairs[0]) if len(set(pairs)) == 1 else f"{min(pairs)} to {max(pairs)}"),
        ("Random ones each", whole(draws)), ("Ablation", found.ablation), ("Counted", found.of),
    ]  # fmt: skip
    return Single(
        "specificity",
        f"Whose circuit is it? {counted(len(found.circuits), 'circuit')} on {counted(len(found.tasks), 'task')}",
        "Circuits ablated on tasks",
        "; ".join(f"{name}: {one['description']}" for name, one in found.tasks.items()),
        facts,
        _summary(found),
        spared_figures("damage", "Damage", lambda: [specificity_figure(found, "damage")]),
        [
            *spared_tables("margins", "Own task and others", lambda: [_margins(found)]),
            *spared_tables("damages", "Every circuit on every task", lambda: [_damages(found)]),
        ],
        (
            (
                "Damage",
                "The share of a task's gap that is gone when the circuit alone is ablated and all else is live: 0: the "
                "task does without it, 1: nothing is left, negative: it worked against the task.",
            ),
            (
                "Random ones",
                "As many edges from each layer to each other one (of units: as many from each layer), drawn at random.",
            ),
        ),
        (_NAMES, ("own", "the task that bears the circuit's name"), ("margin", "own damage minus the others' mean")),
    )


def _summary(found: Specificity) -> Sequence[str]:
    """All sentences of few circuits; of many what the tables say at large."""
    known = [(number, own) for number in range(len(found.circuits)) if (own := found.own(number)) is not None]
    if len(found.circuits) <= _FEW or len(found.tasks) < 2 or not known:
        return found.sentences
    margins = {found.circuits[number]: found.margin(number) for number, _ in known}
    most, least = max(margins, key=margins.__getitem__), min(margins, key=margins.__getitem__)
    damage = float(np.mean([float(found.damage[number, own]) for number, own in known]))
    said = [
        f"On average {damage:.2f} of a task's gap is gone without its own circuit, and "
        f"{damage - float(np.mean([*margins.values()])):.2f} of the gaps of the other tasks.",
        f"The most its own task's: {most} (margin {plain(margins[most], 2)}); the least: {least} "
        f"({plain(margins[least], 2)}).",
    ]
    if found.random.shape[1]:
        drawn = float(np.mean([float(found.random[number, :, own].mean()) for number, own in known]))
        said.append(f"Random ones of the same layer profile take {drawn:.2f} of the own task's gap.")
    return said


def _margins(found: Specificity) -> Table:
    """Of every circuit that has a task of its own: damage there, elsewhere, and by random ones."""
    rows = []
    for number, name in enumerate(found.circuits):
        own = found.own(number)
        others = [j for j in range(len(found.tasks)) if j != own]
        row = {"circuit": name, "kept": found.kept[number], "margin": _known(found.margin(number)),
               "stderr": _known(found.margin_stderr(number))}  # fmt: skip
        row["own"] = None if own is None else float(found.damage[number, own])
        row["others"] = float(found.damage[number, others].mean()) if others else None
        drawn = found.random[number]
        row["random"] = None if own is None or not len(drawn) else float(drawn[:, own].mean())
        rows.append(row)
    columns = (
        Column("circuit", "circuit"), Column("kept", found.of, "whole"), Column("own", "its own task", "signed", 2),
        Column("others", "others, mean", "signed", 2), Column("margin", "margin", "signed", 2),
        Column("stderr", "±", "plain", 2), Column("random", "random ones on its own", "signed", 2),
    )  # fmt: skip
    return Table(
        "margins", "Own task and others", columns, tuple(rows), "Damage: the share of a task's gap that is gone."
    )


def _known(value: float) -> float | None:
    return value if value == value else None


def _damages(found: Specificity) -> Table:
    columns = (
        Column("circuit", "circuit"), Column("edges", found.of, "whole"), Column("task", "task"),
        Column("damage", "damage", "signed", 3), Column("stderr", "±", "plain", 3),
        Column("random", "random ones", "signed", 3), Column("random_sd", "s. d. of them", "plain", 3),
    )  # fmt: skip
    rows = tuple(rows_of(found.table()))
    return Table("damages", "Every circuit on every task", columns, rows, f"Of {plain(len(rows), 0)} combinations.")


def _radius() -> tuple[str, str]:
    low, high = INSIDE
    return (
        "Radius",
        f"The smallest budget with which an adversary, who chooses what the parts outside of a circuit carry, takes f "
        f"out of [{low:g}, {high:g}]: how many others it restores (k), or how large weights may be (ε). Known up to a "
        "bracket. That no attempt did it is no proof that none could.",
    )


def _untitled(part: Any) -> Any:
    """A part whose title and subtitle the figure has already."""
    return type(part)("", part.view, part.data, part.alt)
