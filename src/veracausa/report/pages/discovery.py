"""The page of a discovery: what was asked, the circuit, how far its scores can be trusted, and what it is worth."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from veracausa.discovery.evaluation import NOT_TRIED, Evaluation
from veracausa.discovery.results import Discovery
from veracausa.report.charts.attacks import attack_figure
from veracausa.report.charts.circuits import circuit_figure
from veracausa.report.charts.faithfulness import curves_figure
from veracausa.report.charts.figures import Figure
from veracausa.report.instrument.bundle import bundle
from veracausa.report.instrument.circuits import discovery_contents
from veracausa.report.pages.asked import Asked, asked
from veracausa.report.pages.discovery_figures import pairs_figure, receipt_figure
from veracausa.report.pages.discovery_tables import (
    cost_table,
    edges_table,
    faithfulness_table,
    ranking_table,
    sizes_table,
)
from veracausa.report.pages.explain import CIRCUITS, method_of, sign_of
from veracausa.report.pages.frame import About, framed
from veracausa.report.pages.library import asset, flush
from veracausa.report.pages.page import save_pictures
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import Table
from veracausa.storage.files import write_text
from veracausa.studies.results import Section
from veracausa.studies.summary import called
from veracausa.words import plain, signed, whole

#: How edges are chosen, and by what, in words.
_WAYS = {
    "connected": "as whole ways through the strongest",
    "greedy": "from the logits backwards",
    "top": "as the strongest",
    "abs": "as the strongest",
    "optimal": "as the best connected set",
}
_RANKINGS = {"abs_mean": "|score|", "importance": "signed importance"}


def write_page(found: Discovery, path: Path) -> Path:
    """Write figures/*.png beside `path`, then the page."""
    drawn = _Page.of(found)
    lacking = save_pictures(drawn.figures, path.parent / "figures")
    return write_text(path, drawn.html(lacking))


def page(found: Discovery) -> str:
    """The HTML page as text: everything it needs is in it, nothing is fetched."""
    return _Page.of(found).html()


@dataclass(frozen=True)
class _Block:
    """An evaluation as the template reads it."""

    evaluation: Evaluation
    title: str
    lead: str
    notes: tuple[str, ...]
    asked: Asked
    figures: list[Figure]
    tables: list[Table]


@dataclass(frozen=True)
class _Page:
    """A page, drawn."""

    found: Discovery
    circuit: list[Figure]
    trust: list[Figure]
    blocks: list[_Block]

    @classmethod
    def of(cls, found: Discovery) -> _Page:
        return cls(
            found,
            spared_figures("drawing", "Who feeds whom", lambda: [_drawing(found)]),
            spared_figures("receipt", "Scores against exact effects", lambda: _trust(found)),
            [_block(one, i == 0) for i, one in enumerate((found.evaluation, *found.further))],
        )

    @property
    def figures(self) -> list[Figure]:
        """All figures."""
        return [*self.circuit, *self.trust, *(figure for block in self.blocks for figure in block.figures)]

    def html(self, lacking: Sequence[str] = ()) -> str:
        """The page as text; `lacking`: what is missing beside it."""
        found = self.found
        own = {name: getattr(found, name) for name in ("command", "date", "machine", "seconds", "versions")}
        title = f"A circuit of {whole(len(found.circuit))} edges for {found.pairs.name} in {found.model['name']}"
        edges, costs = spared_tables("edges", "Edges", lambda: [edges_table(found)])[0], cost_table(found)
        return framed(
            "discovery.html",
            [one for one in self.figures if one not in self.circuit],
            [edges, costs, *(table for block in self.blocks for table in block.tables)],
            shown=About(title=title, model=found.circuit.model, **own),
            summary=summary(found),
            notes=(*found.circuit.notes, *lacking),
            found=found,
            drawn=" ".join(one.sentence for one in self.circuit),
            instrument=Markup(flush(bundle())),
            looks=Markup(flush(asset("instrument.css"))),
            beside=lambda columns: {"instrument": discovery_contents(found, columns)},
            selected=selected(found),
            edges=edges,
            trust=self.trust,
            trusted=trusted(found),
            receipt=found.receipt.lines() if found.receipt else [],
            asked_of=_asked(found),
            blocks=self.blocks,
            costs=costs,
            methods=[method_of(found.scores)],
            reading=CIRCUITS,
            cost=sum(step.token_layers for step in found.steps),
        )


def summary(found: Discovery) -> list[str]:
    """The discovery in plain words: what it is worth, beside chance, how far it can be trusted, how stable it is."""
    circuit, evaluation = found.circuit, found.evaluation
    heads, mlps = (sum(name.startswith(letter) for name in circuit.nodes) for letter in "am")
    one, chance = evaluation.circuit, evaluation.random
    error = f" ± {plain(one.stderr())}" if one.stderr() == one.stderr() else ""
    held = "held-out " if not evaluation.seen else ""
    pairs = f"{len(evaluation.pairs):,} {held}pair{'' if len(evaluation.pairs) == 1 else 's'}"
    lines = [
        f"{whole(len(circuit))} of {whole(circuit.graph.size)} edges ({circuit.share:.2%}; {heads} heads, {mlps} MLPs) "
        f"bring back f = {plain(one.f)}{error} of the model's gap on {pairs}.",
        f"KL from the model's prediction {plain(float(one.kl.mean()))}; a random ranking of the edges, selected in the "
        f"same way, brings back f = {plain(chance.f)}.",
        f"Over {len(evaluation.curve.sizes)} sizes {found.scores.method} has CPR {plain(evaluation.curve.cpr)} and CMD "
        f"{plain(evaluation.curve.cmd)} (random {plain(evaluation.random_curve.cpr)} and "
        f"{plain(evaluation.random_curve.cmd)}).",
        trusted(found),
        *evaluation.attacked,
    ]
    if evaluation.seen:
        lines.append(f"{evaluation.held_out[0].upper()}{evaluation.held_out[1:]}.")
    if found.stability is not None:
        lines.append(
            f"Drawing the {len(found.pairs):,} selected pairs anew gives circuits that share "
            f"{plain(found.stability.jaccard, 2)} of their edges (mean Jaccard)."
        )
    return lines


def _trust(found: Discovery) -> list[Figure]:
    return [receipt_figure(found.receipt)] if found.receipt else []


def _attack(evaluation: Evaluation) -> list[Figure]:
    return [attack_figure(evaluation.attack, f"{evaluation.name}-attack")] if evaluation.attack else []


def _drawing(found: Discovery) -> Figure:
    return dataclasses.replace(circuit_figure(found.circuit, "drawing"), title="Who feeds whom")


def selected(found: Discovery) -> str:
    """How the edges were chosen, in a sentence."""
    settings = found.circuit.settings
    asked_for, taken, left = (whole(int(n)) for n in (settings["asked"], settings["taken"], len(found.circuit)))
    fewer = " and taken" if taken == asked_for else f", {taken} taken"
    lie = "all of which lie" if left == taken else f"{left} of which lie"
    return (
        f"Scored by {found.circuit.method}; {asked_for} edges asked for{fewer}, chosen {_WAYS[settings['how']]} by "
        f"{_RANKINGS[settings['by']]}, {lie} on a way from the input to the logits."
    )


def trusted(found: Discovery) -> str:
    """How far the edges' scores can be trusted, in a sentence that is never left out."""
    if found.scores.method == "exact":
        return "The scores are exact effects."
    if found.receipt is None:
        return "The edges' scores are not verified: no exact effect was taken."
    agreement = found.receipt.agreement
    return (
        f"Exact effects verified {len(found.receipt):,} of the scores (r {plain(agreement.r)}), among them those of "
        f"{found.checked:,} of the circuit's {len(found.circuit):,} edges; "
        f"{found.receipt.sentence.partition('; ')[2]}."
    )


def _asked(found: Discovery) -> Asked:
    measured = found.evaluation.circuit.measured
    own = dataclasses.replace(measured, clean=found.scores.clean, corrupted=found.scores.corrupted)
    return dataclasses.replace(
        asked(Section("", found.pairs, own, ())),
        sign=f"{sign_of([found.scores])} Importance is the effect with the sign turned so that positive supports.",
    )


def _block(evaluation: Evaluation, own: bool) -> _Block:
    found = evaluation.circuit
    error = f" ± {plain(found.stderr())}" if found.stderr() == found.stderr() else ""
    lead = (
        f"{evaluation.held_out[0].upper()}{evaluation.held_out[1:]}. f = {plain(found.f)}{error}: M is "
        f"{signed(float(found.metric.mean()))} for the circuit, {signed(float(found.measured.clean.mean()))} for the "
        f"model, {signed(float(found.measured.corrupted.mean()))} with no edges."
    )
    if evaluation.ablation != "counterfactual":
        lead += f" Edges outside the circuit are ablated otherwise than the scores have it: {evaluation.ablation}."
    title = f"On {called(evaluation.pairs)}" + (" that were held out" if own and not evaluation.seen else "")
    title += f", {evaluation.ablation} ablation" if evaluation.ablation != "counterfactual" else ""
    name = evaluation.name
    curves = [evaluation.curve, evaluation.random_curve]
    return _Block(
        evaluation,
        title,
        lead,
        (*found.notes, *((NOT_TRIED,) if evaluation.attack is None else evaluation.attacked[-1:])),
        asked(Section("", evaluation.pairs, found.measured, ())),
        [
            *spared_figures(f"{name}-curve", "Faithfulness by size", lambda: [curves_figure(curves, f"{name}-curve")]),
            *spared_figures(f"{name}-f", "Faithfulness pair by pair", lambda: [pairs_figure(evaluation)]),
            *spared_figures(f"{name}-attack", "What an adversary makes of the rest", lambda: _attack(evaluation)),
        ],
        [
            *spared_tables(f"{name}-rankings", "Beside a random ranking", lambda: [ranking_table(evaluation)]),
            *spared_tables(f"{name}-sizes", "Circuits of each size", lambda: [sizes_table(evaluation)]),
            *spared_tables(f"{name}-pairs", "Pair by pair", lambda: [faithfulness_table(evaluation)]),
        ],
    )
