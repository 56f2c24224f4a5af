"""The figures and tables of one panel (a kind of unit) and of one section (a task)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from veracausa.report.chapters.registry import Chapter, chapters
from veracausa.report.charts.data import MOST_POINTS, Datasets, Row, effects, heading, identifier, match, number, plural
from veracausa.report.charts.figures import Figure, Part
from veracausa.report.charts.lines import cost_view, jaccard_view
from veracausa.report.charts.maps import STRONGEST, limit_of, place_view, ranking_view, shape
from veracausa.report.charts.scatters import against_exact, mean_difference, padded
from veracausa.report.charts.theme import Support
from veracausa.report.sentences import (
    chosen_sentence,
    cost_sentence,
    difference_sentence,
    jaccard_sentence,
    map_sentence,
    scatter_sentence,
)
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import Table, agreement_table, pairs_table, units_table
from veracausa.scores.agreement import Agreement
from veracausa.scores.scores import METRIC, Scores
from veracausa.spared import spared
from veracausa.studies.results import Panel, Section
from veracausa.words import joined, plain, signed

#: Fewest units that a random draw needs to be rated on its own.
FEWEST = 3


@dataclass(frozen=True, eq=False)
class PanelView:
    """One kind of unit, drawn. `name` is its anchor and the start of its files' names."""

    panel: Panel
    name: str

    @property
    def title(self) -> str:
        """The heading."""
        return heading(self.panel.kind, self.panel.exact.units.apart)

    @cached_property
    def agreements(self) -> list[Agreement]:
        """Agreement of every estimate, over all compared units; none where it cannot be told."""
        return spared(f"Agreement of {plural(self.panel.kind)}", lambda: self.panel.agreements, lambda _: [])

    @cached_property
    def drawn(self) -> list[Agreement]:
        """The same over the random draw alone."""
        return self.panel.random_agreements if self.panel.sampled >= FEWEST else []

    @cached_property
    def random(self) -> frozenset[str]:
        """Names of the units that were drawn at random."""
        units = self.panel.exact.units
        return frozenset(units[len(units) - self.panel.sampled :].names)

    @property
    def lead(self) -> str:
        """How the compared units were chosen, and how each method does."""
        return spared("What is said of the methods", self._lead, lambda sentence: sentence)

    def _lead(self) -> str:
        if not self.agreements:
            return chosen_sentence(self.panel)
        marks = [f"{a.method} {plain(a.r)}" for a in self.agreements]
        text = f"{chosen_sentence(self.panel)} Correlation with them: {joined(marks)}."
        if self.drawn:
            text += f" Over the random draw alone: {joined([f'{a.method} {plain(a.r)}' for a in self.drawn])}."
        return text

    @cached_property
    def tables(self) -> list[Table]:
        """Agreement figures; strongest units."""
        made = spared_tables(f"{self.name}-units", f"{self.title}: every unit", self._units)
        if not self.agreements:
            return made
        return [*spared_tables(f"{self.name}-agreement", f"{self.title}: agreement", self._rated), *made]

    def _units(self) -> list[Table]:
        return [units_table(self.panel, self.name)]

    def _rated(self) -> list[Table]:
        return [agreement_table(self.panel, self.agreements, self.drawn, self.name)]

    @cached_property
    def figures(self) -> list[Figure]:
        """Where, method against exact, mean–difference, Jaccard@k; where alone if nothing was estimated."""
        wanted = [("map", "Where", self._where)]
        if self.agreements:
            wanted.append(("scatter", "Method against exact", self._scatter))
            if any(a.unit == METRIC for a in self.agreements):
                wanted.append(("difference", "Mean–difference", self._difference))
            wanted.append(("jaccard", "Do they name the same strongest units?", self._jaccard))
        made: list[Figure] = []
        for name, title, draw in wanted:
            made += spared_figures(f"{self.name}-{name}", title, partial(_one, draw))
        return made

    def _where(self) -> Figure:
        panel = self.panel
        exact, title = effects(panel.exact)
        units, kind = panel.exact.units, plural(panel.kind)
        estimates = {label: match(s, units) for s, label in zip(panel.estimates, panel.labels, strict=True)}
        titles = {label: effects(s)[1] for s, label in zip(panel.estimates, panel.labels, strict=True)}
        alike = {label: values for label, values in estimates.items() if titles[label] == title}  # on the same scale
        limit = limit_of(exact)
        unit = " of the gap" if panel.exact.has_shares else ""
        sentence = map_sentence(panel.kind, units.names, exact, alike, limit, unit)
        name = f"{self.name}-map"
        if shape(units) == "ranking":
            data = Datasets()
            view = ranking_view(data, units, exact, alike, name, title)
            count = min(STRONGEST, len(units))
            what = f"Bars: the {count} strongest {kind} by exact effect; points: estimates"
            part = Part("", view, data, what, Support.of(panel.exact.direction).signs)
            lead = sentence.split(" The scale ends")[0]
            return Figure(
                name, f"The {count} strongest {kind}", (part,), f"Bars are exact effects, points estimates. {lead}",
                least=320, width=560,
            )  # fmt: skip
        columns = {"exact": exact, **estimates}
        domain = padded([exact, *alike.values()])
        parts = []
        supports = [Support.of(one.direction, one.signed) for one in (panel.exact, *panel.estimates)]
        bars = shape(units) == "bars"
        for (label, values), support in zip(columns.items(), supports, strict=True):
            data = Datasets()
            axis, same = titles.get(label, title), label not in titles or label in alike
            ends = (limit, domain) if same else (limit_of(values), padded([values]))
            view = place_view(data, units, columns, label, f"{name}-{label}", axis, ends[0], support, domain=ends[1])
            best = int(np.argmax(np.abs(np.nan_to_num(values))))
            largest = f"largest {units.names[best]}, {signed(values[best])}"
            what = f"{label}: {axis} of {len(units)} {kind} by place; {largest}"
            own = bars or support is Support.UNSIGNED
            parts.append(Part(label, view, data, what, support.value.replace(", ", ",\n") if own else ""))
        across = len({key[-1] if units.positional else key[1] for key in units.keys})
        return Figure(
            name, f"Where: exact effects and estimates of {kind}", tuple(parts),
            sentence.split(" The scale ends")[0] if bars else sentence,
            scale=None if bars else limit, unit=title, support=supports[0],
            least=min(340, max(150, 10 * across + 40)), width=190,
        )  # fmt: skip

    def _scatter(self) -> Figure:
        rated = self.agreements
        name = f"{self.name}-scatter"
        exact = padded([a.exact for a in rated])
        shared = padded([v for a in rated if a.unit == METRIC for v in (a.exact, a.estimate)] or [rated[0].exact])
        apart = shared[1] - shared[0] > 1.5 * (exact[1] - exact[0])
        parts = []
        for a in rated:
            span = padded([a.exact, a.estimate]) if apart or a.unit != METRIC else shared
            data = Datasets()
            titles = None if a.unit == METRIC else ("exact, share of the gap", f"{a.method}, {a.unit}")
            view = against_exact(data, a, self.random, f"{name}-{a.method}", span, titles)
            text = f"Scatter of {a.method} against exact effects, {len(a.names)} points, r {plain(a.r)}"
            parts.append(Part(a.method, view, data, text, f"r {plain(a.r)}, Spearman {plain(a.spearman)}"))
        sentence = scatter_sentence(self.panel.kind, rated, min(MOST_POINTS, len(rated[0].names)))
        sentence += " Each chart has its own range." if apart and len(rated) > 1 else ""
        return Figure(name, "Method against exact", tuple(parts), sentence, least=270, width=280)

    def _difference(self) -> Figure:
        rated = [a for a in self.agreements if a.unit == METRIC]
        name = f"{self.name}-difference"
        parts = []
        for a in rated:
            low, high = a.limits
            middle, difference = (a.exact + a.estimate) / 2, a.estimate - a.exact
            data = Datasets()
            spans = padded([middle]), padded([difference, np.array([low, high])])
            view = mean_difference(data, a, self.random, f"{name}-{a.method}", *spans)
            text = f"Mean–difference plot of {a.method}: bias {signed(a.bias, 4)}, {signed(low)} to {signed(high)}"
            parts.append(Part(a.method, view, data, text, f"bias {signed(a.bias, 4)}, ± {plain(1.96 * a.sd, 4)}"))
        sentence = difference_sentence(self.panel.kind, rated)
        return Figure(name, "Mean–difference", tuple(parts), sentence, least=270, width=280)

    def _jaccard(self) -> Figure:
        name = f"{self.name}-jaccard"
        sentence = jaccard_sentence(self.panel.kind, self.agreements)
        data = Datasets()
        part = Part("", jaccard_view(data, self.agreements, name), data, f"Line chart. {sentence}")
        return Figure(name, "Do they name the same strongest units?", (part,), sentence, least=320, width=560)


def _one(draw: Callable[[], Figure]) -> list[Figure]:
    return [draw()]


@dataclass(frozen=True, eq=False)
class SectionView:
    """One task, drawn."""

    section: Section
    name: str

    @cached_property
    def panels(self) -> list[PanelView]:
        """One view per kind of unit."""
        seen: dict[str, int] = {}
        views = []
        for panel in self.section.panels:
            stem = identifier(heading(panel.kind, panel.exact.units.apart))
            seen[stem] = seen.get(stem, 0) + 1
            views.append(PanelView(panel, f"{self.name}-{stem}" + (f"-{seen[stem]}" if seen[stem] > 1 else "")))
        return views

    @cached_property
    def chapters(self) -> list[Chapter]:
        """Further findings, drawn."""
        return chapters(self.section.findings, self.name)

    @property
    def methods(self) -> list[str]:
        """Labels of all methods of the section, in order."""
        return list(dict.fromkeys(label for panel in self.section.panels for label in panel.labels))

    @cached_property
    def figures(self) -> list[Figure]:
        """Cost against truth."""
        if not any(panel.estimates for panel in self.section.panels):
            return []
        return spared_figures(f"{self.name}-cost", "What truth costs", lambda: [self._cost()])

    @cached_property
    def tables(self) -> list[Table]:
        """Tables that exist as CSV only: the pairs."""
        return spared_tables(f"{self.name}-pairs", "Pairs", lambda: [pairs_table(self.section, self.name)])

    def scores(self) -> list[tuple[str, Scores]]:
        """All scores, each under the name of its file."""
        named = []
        for view in self.panels:
            named.append((f"{view.name}-exact", view.panel.exact))
            for label, scores in zip(view.panel.labels, view.panel.estimates, strict=True):
                named.append((f"{view.name}-{identifier(label)}", scores))
        return named

    def _cost(self) -> Figure:
        name = f"{self.name}-cost"
        groups: list[tuple[PanelView, list[Row]]] = []
        for view in self.panels:
            if view.panel.estimates:
                groups.append((view, _cost_rows(view)))
        rows = [row for _, own in groups for row in own]
        lowest = min([0.0, *(row["r"] for row in rows if row["r"] is not None)])
        lowest = lowest - 0.08 if lowest < 0 else 0.0
        parts = []
        for view, own in groups:
            data = Datasets()
            chart = cost_view(data, own, self.methods, f"{name}-{view.name}", lowest)
            text = f"Cost against agreement for {plural(view.panel.kind)}"
            parts.append(Part(view.title, chart, data, text, f"exact: {len(view.panel.exact):,} units"))
        sentence = f"To the left cheap, to the top true. {cost_sentence(rows)}"
        return Figure(name, "What truth costs", tuple(parts), sentence, least=260, width=260, columns=3)


def _cost_rows(view: PanelView) -> list[Row]:
    panel = view.panel

    def row(method: str, scores: Scores, r: float) -> Row:
        cost = scores.cost
        return {
            "kind": panel.kind, "method": method, "cost": max(1, cost.token_layers), "seconds": number(cost.seconds),
            "r": number(r), "units": len(scores),
        }  # fmt: skip

    own = [row(a.method, scores, a.r) for scores, a in zip(panel.estimates, view.agreements, strict=True)]
    return [*own, row("exact", panel.exact, 1.0)]
