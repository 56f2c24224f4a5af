"""A page of anyone's numbers: the map, the search and the panel of a study's page over units that are named in JSON.

Needed are a section's `id`, `title` and `kinds`, and a kind's `kind`, `names`, `layer`, and `exact` with `value`. All
else has a default (`_SECTION`, `_KIND`). docs/page.md says what each entry means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from veracausa.report.charts.data import identifier
from veracausa.report.instrument.bundle import bundle
from veracausa.report.pages.frame import About, framed
from veracausa.report.pages.library import asset, flush
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.storage.files import at, read_json, write_text
from veracausa.storage.schema import flag, many, maybe, number, one_of, reading, text, whole

#: What a section may leave out.
_SECTION: dict[str, Any] = {"metric": "", "pairs": (), "told": ()}
#: What a kind may leave out; numbers of its units, and what depends on its name, are filled in by `_kind`.
_KIND: dict[str, Any] = {"n": 1, "share": False, "supports": 0, "first": "value", "title": "", "laid": False}
_KNOWN = maybe(number())


def page_of(numbers: Mapping[str, Any] | str | Path, path: str | Path, *, title: str, about: str = "") -> Path:
    """Write a page of your own numbers: a map of named units, a search, and a panel of the chosen one. No model is run.

    Args:
        numbers: {"sections": […]} as docs/page.md has it, with plain lists in the place of columns; or a JSON file.
        path: of the page, one offline HTML file.
        title: its heading.
        about: a sentence or two below it.

    Raises:
        FileError: something is missing or does not fit together (the message says what), or it cannot be written.

    >>> units = {"kind": "heads", "names": ["a0.h0", "a0.h1"], "layer": [0, 0], "exact": {"value": [0.1, -0.4]}}
    >>> vc.page_of({"sections": [{"id": "mine", "title": "Mine", "kinds": [units]}]}, "mine.html", title="My heads")
    """
    told = numbers if isinstance(numbers, Mapping) else read_json(numbers, "numbers of a page", sealed=False)
    with reading(Path("numbers") if isinstance(numbers, Mapping) else at(numbers)):
        sections = [_section(one) for one in many(dict, least=1)(told["sections"])]
    return write_text(at(path), _page(sections, title, about))


def _section(told: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [_kind(one) for one in many(dict, least=1)(told["kinds"])]
    return {**_SECTION, **told, "id": identifier(text(told["id"])), "title": text(told["title"]), "kinds": kinds}


def _kind(told: Mapping[str, Any]) -> dict[str, Any]:
    """A kind with all that the page's script reads; every list has one entry per unit."""
    kind, names = text(told["kind"]), list(many(text, least=1)(told["names"]))
    if len(set(names)) < len(names):
        raise ValueError(f"names of {kind}: one is there twice")
    units = len(names)
    known = many(_KNOWN, units)
    value = list(known(told["exact"]["value"]))
    ends = {end: list(known(told["exact"].get(end) or [None] * units)) for end in ("low", "high")}
    layer = list(many(whole(), units)(told["layer"]))
    made = {**_KIND, "one": kind, "many": kind, "anchor": identifier(kind), **told}
    made |= {"n": whole(1)(made["n"]), "share": flag(made["share"]), "supports": one_of(-1, 0, 1)(made["supports"])}
    made |= {"names": names, "layer": layer, "exact": {"value": value, **ends}, "laid": False, "sampled": 0}
    made["index"] = list(many(whole(-1), units)(told.get("index") or _within(layer)))
    made["position"] = list(many(whole(-1), units)(told.get("position") or [-1] * units))
    made["each"] = None if told.get("each") is None else list(many(_KNOWN, units * made["n"])(told["each"]))
    made["said"] = text(made.get("said", made["one"]))
    made["estimates"] = [_estimate(one, units) for one in told.get("estimates", ())]
    return made


def _estimate(told: Mapping[str, Any], units: int) -> dict[str, Any]:
    value = list(many(_KNOWN, units)(told["value"]))
    return {"alike": True, "title": "", **told, "label": text(told["label"]), "value": value}


def _within(layers: Sequence[int]) -> list[int]:
    """Each unit's place among those of its layer."""
    return [list(layers[:i]).count(layer) for i, layer in enumerate(layers)]


def _page(sections: list[dict[str, Any]], title: str, about: str) -> str:
    tables = [_table(section, kind) for section in sections for kind in section["kinds"]]
    return framed(
        "own.html", [], tables, shown=About.now(title, {}), summary=[about] if about else [], notes=(),
        tables_of=tables, methods=(), reading=_READING, cost=0, looks=Markup(flush(asset("instrument.css"))),
        instrument=Markup(flush(bundle())),
        beside=lambda columns: {"instrument": {"sections": sections, "calls": []}},
    )  # fmt: skip


_READING = (
    (
        "Colours",
        "Where one sign supports: blue supports, orange works against it. Else darker is larger.",
    ),
)


def _table(section: dict[str, Any], kind: dict[str, Any]) -> Table:
    """All numbers of a kind, the largest first."""
    numbers = {"layer": kind["layer"], **kind["exact"]}
    numbers |= {f"= {one['label']}": one["value"] for one in kind["estimates"]}
    columns = (
        Column("name", kind["one"]), Column("layer", "layer", "index"), Column("value", kind["first"], "signed", 4),
        Column("low", "low", "signed", 4), Column("high", "high", "signed", 4),
        *(Column(f"= {one['label']}", one["label"], "signed", 4) for one in kind["estimates"]),
    )  # fmt: skip
    every = zip(kind["names"], *numbers.values(), strict=True)
    rows = [{"name": name, **dict(zip(numbers, row, strict=True))} for name, *row in every]
    rows.sort(key=lambda row: 1.0 if row["value"] is None else -abs(row["value"]))
    name, heading = f"{section['id']}-{kind['anchor']}", f"{section['title']}: {kind['many']}"
    return Table(name, heading, columns, tuple(rows), "The largest first.", min(SHOWN, len(rows)))
