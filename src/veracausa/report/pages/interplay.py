"""The page of interactions: how strongly parts of one layer drive parts of a later one, and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from veracausa.interplay.checked import CheckedInteractions
from veracausa.interplay.results import HOW, Interactions
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.interplay import SHOWN as MOST
from veracausa.report.charts.interplay import checked_part, interactions_part
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.single import Named, Single, single
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.storage.files import at, write_text
from veracausa.words import whole

#: Pairs that the page holds, the strongest; files have all.
_HELD = 1000
#: Pairs of which single prompts are told.
_SINGLE = 50
_REPLACED = {
    "counterfactual": "by what it is in the corrupted prompt",
    "zero": "by 0",
    "mean": "by its mean over the prompts",
}
_READING = (
    ("The grid", "A row is a source, a column a reader; darker is stronger, whatever the sign. Parts stand in the "
                 "model's order; those of the strongest pairs are drawn."),
    ("Names", "a10.h3 is head 3 of layer 10, m12.n472 neuron 472 of the MLP of layer 12, f20.517 a feature of a "
              "dictionary; @7 is a position."),
    ("Prompts", "An average can hide that a pair is strong on few prompts: “least” and “most” are single prompts'."),
)  # fmt: skip


def write_page(found: Interactions | CheckedInteractions, path: str | Path) -> Path:
    """Write the page as one offline file (public as `Interactions.page`, `CheckedInteractions.page`).

    Raises:
        FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(found))


def page(found: Interactions | CheckedInteractions) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    checked = found if isinstance(found, CheckedInteractions) else None
    one = found.estimate if isinstance(found, CheckedInteractions) else found
    cost = one.cost + checked.cost if checked else one.cost
    return single(_told(one, checked), one.model, cost)


def _told(one: Interactions, checked: CheckedInteractions | None) -> Single:
    said = (one.sentences[:-1], checked.sentences) if checked else (one.sentences,)
    sources, readers = (_bare(one.settings[side]) for side in ("sources", "readers"))
    pairs = spared_tables("pairs", "The strongest pairs", lambda: [_pairs(one, checked)])
    prompts = spared_tables("prompts", "Single prompts", lambda: [_prompts(one)]) if one.n > 1 else []
    return Single(
        "interactions",
        f"How {sources} drive {readers} in {one.model['name']}",
        "Who drives whom",
        one.task["description"],
        _facts(one, checked),
        [sentence for some in said for sentence in some],
        [*spared_figures("grid", "Sources and readers", lambda: [_grid(one)]), *_check(checked)],
        [*pairs, *prompts],
        _methods(one, checked),
        _READING,
        one.notes,
        f", {one.method} of all sources{', and the exact runs of the check' if checked else ''}",
    )


def _bare(side: str) -> str:
    """ "heads of layer 10" of "9 heads of layer 10", or the names as they are."""
    count, _, rest = str(side).partition(" ")
    return rest if count.replace(",", "").isdigit() and rest else str(side)


def _facts(one: Interactions, checked: CheckedInteractions | None) -> list[tuple[str, str]]:
    told = one.settings
    return [
        ("Sources", str(told["sources"])), ("Readers", str(told["readers"])), ("Method", HOW[one.method]),
        ("Change passes", "through everything between" if told["way"] == "whole" else "to the reader alone"),
        ("Sources replaced", _REPLACED.get(str(told["ablation"]), str(told["ablation"]))),
        ("Positions", str(told["positions"])), ("Prompts", whole(one.n)),
        ("Σ J against the whole change", f"off by {one.residual:.2g} of it"),
        *([] if checked is None else [("Pairs run exactly", f"{checked.known.sum():,} of {checked.known.size:,}")]),
    ]  # fmt: skip


def _grid(one: Interactions) -> Figure:
    part = interactions_part(one, "grid")
    sources, readers = (f"all {n}" if n <= MOST else f"{MOST} of {n:,}" for n in one.strength.T.shape)
    trust = "every number was run" if one.exact else "estimates"
    said = (
        "Strength: the root mean square of J over prompts and positions, in units of the reader; "
        f"{trust}. Drawn are {sources} sources and {readers} readers."
    )
    return Figure("grid", "Sources and readers", (replace(part, title="", subtitle=""),), said, width=620)


def _check(checked: CheckedInteractions | None) -> list[Figure]:
    if checked is None:
        return []

    def drawn() -> list[Figure]:
        part: Part = replace(checked_part(checked, "check"), title="", subtitle="")
        said = "Every dot is a pair of which both are known; on the line the estimate is the truth."
        return [Figure("check", "The estimate beside the truth", (part,), said, width=420)]

    return spared_figures("check", "The estimate beside the truth", drawn)


def _pairs(one: Interactions, checked: CheckedInteractions | None) -> Table:
    frame = checked.table() if checked else one.table()
    columns = [Column("source", "source"), Column("reader", "reader"), Column("strength", "strength", "plain", 4)]
    columns += [Column("stderr", "± SE of signs", "plain", 4)] if "stderr" in frame else []
    columns += [Column("exact", "exact", "plain", 4)] if checked else []
    columns += [Column("mean", "mean of J", "signed", 4)]
    columns += [Column("exact_mean", "exact mean", "signed", 4), Column("verified", "was it run?")] if checked else []
    rows = tuple(rows_of(frame[[column.key for column in columns]][:_HELD]))
    held = (
        f"The {whole(_HELD)} strongest of {whole(len(frame))}; the saved result has all." if len(frame) > _HELD else ""
    )
    return Table("pairs", "The strongest pairs", tuple(columns), rows, held, min(SHOWN, len(rows)))


def _prompts(one: Interactions) -> Table:
    columns = (
        Column("source", "source"), Column("reader", "reader"), Column("strength", "over all prompts", "plain", 4),
        Column("low", "least of a prompt", "plain", 4), Column("median", "median", "plain", 4),
        Column("high", "most of a prompt", "plain", 4), Column("share", "among a prompt's strongest", "percent", 0),
        Column("carried", "of the square from a tenth of the prompts", "percent", 0),
    )  # fmt: skip
    rows = tuple(rows_of(one.spread(min(_SINGLE, one.strength.size))))
    note = "A pair whose square a tenth of the prompts brings nearly alone is about these prompts."
    return Table("prompts", "Single prompts beside the average", columns, rows, note, min(SHOWN, len(rows)))


def _methods(one: Interactions, checked: CheckedInteractions | None) -> Named:
    how = {
        "exact": "Every source is replaced in a run of its own, and readers are read off that run: no estimate.",
        "ig": "Integrated gradients: the slope of the reader by the source, averaged while all sources move together "
        "from their replacements to their own values, times the source's change. All J add up to the whole change; one "
        "of them need not be what replacing that source alone does.",
        "gradient": "The slope of the reader by the source, times the source's change: right for small changes.",
    }[one.method]
    about = (
        "An interaction",
        "A source is replaced, all else is left as it is. J is what the reader's value loses by it, at every position: "
        "positive where the source raises it.",
    )
    return about, ("How J was found", how), *([] if checked is None else [_about_check(checked)])


def _about_check(checked: CheckedInteractions) -> tuple[str, str]:
    return (
        "The check",
        "The sources of the estimate's strongest pairs, and of a random sample of the others, are run exactly. A pair "
        f"is strong if it is over {checked.tau:.0%} of the strongest; how many strong ones nobody ran is bounded from "
        f"the sample ({checked.confidence:.0%} confidence).",
    )
