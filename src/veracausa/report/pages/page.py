"""One offline HTML page of a study, with PNGs, CSVs and score files beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from markupsafe import Markup, escape

from veracausa.errors import FileError
from veracausa.report.charts.data import identifier
from veracausa.report.charts.figures import Figure
from veracausa.report.instrument.bundle import bundle
from veracausa.report.instrument.contents import contents
from veracausa.report.instrument.findings import findings
from veracausa.report.instrument.marking import marked
from veracausa.report.pages.asked import Asked, asked
from veracausa.report.pages.explain import READING, method_of
from veracausa.report.pages.folding import Folded, folded
from veracausa.report.pages.frame import framed
from veracausa.report.pages.library import asset, flush
from veracausa.report.pages.panels import SectionView
from veracausa.report.readable import readable
from veracausa.report.tables import Table, steps_table
from veracausa.spared import in_words, spared
from veracausa.storage.files import at, write_bytes, write_text
from veracausa.studies.files import save_numbers
from veracausa.studies.results import Study

#: Longest name of a section in the names of its files, which systems limit to 255 bytes.
_STEM = 80


def save_study(study: Study, out: str | Path) -> Path:
    """Write a study into a folder: scores, findings, study.json, tables/*.csv, figures/*.png, and report.html last.

    Every file is written beside its place and then renamed, so an interrupted call leaves no half file, and a folder
    with a report.html has everything. Numbers come first: what cannot be drawn or put into words is missing, the page
    says so in its place, and no number is lost to it. Returns the path of report.html.

    Raises:
        FileError: the folder cannot be written.
    """
    folder = at(out)
    views = section_views(study)
    save_numbers(study, folder, [[name for name, _ in view.scores()] for view in views])
    lacking: list[str] = []
    costs = [steps_table(study)] if study.steps else []
    for table in [*(table for view in views for table in _tables(view)), *costs]:
        text = spared(f"{table.name}.csv", table.csv, lacking.append) if table.columns else None
        if text is not None:
            write_text(folder / "tables" / f"{table.name}.csv", text)
    lacking += save_pictures([figure for view in views for figure in _figures(view)], folder / "figures")
    try:
        text = page(replace(study, notes=(*study.notes, *lacking)), views)
    except Exception as error:
        raise FileError(
            f"The page of this study could not be made: {in_words(error)} All its numbers are in {folder}: scores, "
            "tables, figures."
        ) from error
    return write_text(folder / "report.html", text)


def save_pictures(figures: Sequence[Figure], folder: Path) -> list[str]:
    """Write figures as PNG; returns a sentence for each that could not be drawn.

    Raises:
        FileError: the folder cannot be written.
    """
    lacking: list[str] = []
    for figure in figures:
        if figure.parts:
            drawn = spared(f"{figure.name}.png", figure.png, lacking.append)
            if drawn is not None:
                write_bytes(folder / f"{figure.name}.png", drawn)
    return lacking


def section_views(study: Study) -> list[SectionView]:
    """The sections of a study, drawn; their names number them."""
    return [SectionView(s, f"{i}-{identifier(s.title)[:_STEM].rstrip('-')}") for i, s in enumerate(study.sections, 1)]


def page(study: Study, views: list[SectionView] | None = None) -> str:
    """The HTML page as text: everything it needs is in it, nothing is fetched."""
    views = section_views(study) if views is None else views
    sections = [_Block(view, asked(view.section), folded(view)) for view in views]
    main = views[-1]
    first = spared("The findings in plain words", lambda: findings(main.section, study.model["name"]), lambda _: None)
    methods: dict[str, str] = {}
    for view in views:
        for panel in view.section.panels:
            for scores in (panel.exact, *panel.estimates):
                name, text = method_of(scores)
                methods.setdefault(name, text)
    costs = [steps_table(study)] if study.steps else []
    return framed(
        "page.html",
        [figure for view in views for figure in _figures(view)],
        [*(table for view in views for table in _tables(view)), *costs],
        shown=study,
        costs=costs,
        summary=study.summary,
        notes=study.notes,
        sections=sections,
        first=first,
        headline=_unbroken(first.question if first else study.title, study.model["name"]),
        main=sections[-1],
        mark=partial(
            marked, units={name for panel in main.panels for name in panel.panel.exact.units.names}, done=set()
        ),
        instrument=Markup(flush(bundle())),
        looks=Markup(flush(asset("instrument.css"))),
        beside=lambda columns: {"instrument": contents(views, columns)},
        methods=list(methods.items()),
        reading=READING,
        cost=sum(s.cost.token_layers for view in views for _, s in view.scores()),
    )


def _unbroken(text: str, name: str) -> Markup:
    """A text as HTML in which a model's name is not broken where lines are wide."""
    whole = Markup('<span class="whole">{}</span>').format(readable(name))
    return Markup(str(escape(readable(text))).replace(str(escape(readable(name))), str(whole)))


@dataclass(frozen=True)
class _Block:
    """A section as the template reads it."""

    view: SectionView
    asked: Asked
    questions: list[Folded]


def _figures(view: SectionView) -> list[Figure]:
    panels = (figure for panel in view.panels for figure in panel.figures)
    return [*panels, *view.figures, *(figure for chapter in view.chapters for figure in chapter.figures)]


def _tables(view: SectionView) -> list[Table]:
    panels = (table for panel in view.panels for table in panel.tables)
    return [*view.tables, *panels, *(table for chapter in view.chapters for table in chapter.tables)]
