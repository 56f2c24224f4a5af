"""The page of a pruned model: what is cut, what is left of tasks and text at every size, and what that saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from veracausa.pruning.exported import Exported
from veracausa.pruning.names import RANKINGS, kinds_in_words
from veracausa.pruning.pruned import Pruned
from veracausa.report.charts.pruning import cut_figure, pruned_figure
from veracausa.report.pages.discovery_tables import rows_of
from veracausa.report.pages.single import Single, single
from veracausa.report.spared import spared_figures, spared_tables
from veracausa.report.tables import SHOWN, Column, Table
from veracausa.storage.files import at, write_text
from veracausa.words import plain, whole

_METHODS = (
    (
        "Rankings",
        "What a part is worth to a task: " + "; ".join(f"{name}: {words}" for name, words in RANKINGS.items()) + ". "
        "Parts are compared by their share of the task's sum per parameter. Of several tasks the one counts that needs "
        "a part most; by fgp a part stays if it is in the smallest set that holds a share of the support of any task.",
    ),
    (
        "The cut",
        "Zero: a cut part writes nothing. Mean: it writes what it writes on average, over all positions of the pairs "
        "that were ranked on, which is a bias. A cut layer passes the stream on as it is.",
    ),
    (
        "The check",
        "Every cut is run: all its parts gone at once, at all positions. Metric and accuracy (the likeliest token is a "
        "right answer) are of clean prompts that no ranking saw; KL and perplexity of plain text that none saw either.",
    ),
)
_READING = (
    ("Sizes", "Shares of the parameters of all parts that could be cut, not of the model's."),
    ("Intervals", "95%: Student's over pairs or rows of text, Wilson's of an accuracy; nothing of other tasks. "
                  "Those of a change are over the differences of the same pairs or rows, and say more of it than a "
                  "level's do."),
    ("Names", "a3.h2 is head 2 of layer 3, a3.kv1 a key/value head with its queries, m3.n40 a neuron, m3 an MLP, a3 an "
              "attention layer, l3 a whole layer."),
)  # fmt: skip


def write_page(found: Pruned, path: str | Path, exported: Exported | None = None) -> Path:
    """Write the page as one offline file (public as `Pruned.page`).

    Raises:
        FileError: it cannot be written, or not made.
    """
    return write_text(at(path), page(found, exported))


def page(found: Pruned, exported: Exported | None = None) -> str:
    """The page as text: everything it needs is in it, nothing is fetched."""
    figures = [
        *spared_figures("left", "What is left", lambda: [pruned_figure(found, "left")]),
        *spared_figures("cut", "What is cut", lambda: [cut_figure(found, "cut")]),
    ]
    tables = [
        *spared_tables("pairs", "Every cut on held-out pairs", lambda: [_on_pairs(found)]),
        *(spared_tables("text", "Every cut on plain text", lambda: [_on_text(found)]) if found.text.shape[2] else []),
        *spared_tables("parts", "Parts that are cut", lambda: [_parts(found)]),
    ]
    saved = [] if exported is None else _saved(exported)
    told = Single(
        "pruning",
        f"{found.model['name']} without some of its {kinds_in_words(found.parts.kinds)}",
        "The cut",
        " ".join(one["description"] for one in found.tasks),
        _facts(found, exported),
        [*found.sentences[: len(found.sentences) - len(found.notes)], *saved],
        figures,
        tables,
        _METHODS,
        _READING,
        found.notes,
        ", rankings and exact runs of every cut",
    )
    return single(told, found.model, found.cost)


def _saved(exported: Exported) -> list[str]:
    """What the checkpoint saves: its parameters, and time, if any."""
    parameters, seconds = exported.describe().splitlines()[1:3]
    return [f"Checkpoint: {parameters}.", f"Time: {seconds}."]


def _facts(found: Pruned, exported: Exported | None) -> list[tuple[str, str]]:
    (before, after), parts = found.flops, found.parts
    facts = [
        ("Parts", whole(len(parts))), ("Cut", whole(len(found.cut))), ("Ranked by", found.rankings[0]),
        ("Share of the parts", f"{plain(100 * found.saved / parts.total, 1)} %"),
        ("Parameters cut", whole(found.saved)), ("Of the model", f"{plain(100 * found.saved / parts.whole, 1)} %"),
        ("Operations a token", f"{whole(before)} → {whole(after)}"), ("Replaced by", found.settings["ablation"]),
        ("Rounds", str(found.settings.get("rounds", 1))), ("Text", found.said),
    ]  # fmt: skip
    if exported is not None:
        full, small = exported.seconds
        facts += [
            ("Checkpoint", f"{whole(exported.before)} → {whole(exported.after)} parameters"),
            ("Padding", f"{whole(exported.padded)} parameters"), ("Seconds", f"{plain(full, 3)} → {plain(small, 3)}"),
            *((name.replace("_", " ").capitalize(), whole(count)) for name, count in exported.counts.items()),
        ]  # fmt: skip
    return facts


_CUT = (
    Column("ranking", "ranking"), Column("size", "size", "percent", 0), Column("parts", "parts", "whole"),
    Column("parameters", "parameters", "whole"),
)  # fmt: skip


def _on_pairs(found: Pruned) -> Table:
    frame = found.table()
    columns = (
        *_CUT, Column("on", "on"), Column("metric", "metric", "signed", 2), Column("low", "95% from", "signed", 2),
        Column("high", "to", "signed", 2), Column("change", "change of metric", "signed", 2),
        Column("change_low", "95% from", "signed", 2), Column("change_high", "to", "signed", 2),
        Column("accuracy", "accuracy", "percent", 0), Column("accuracy_low", "95% from", "percent", 0),
        Column("accuracy_high", "to", "percent", 0),
    )  # fmt: skip
    return Table("pairs", "Every cut on held-out pairs", columns, tuple(rows_of(frame[frame["on"] != "plain text"])))


def _on_text(found: Pruned) -> Table:
    frame = found.table()
    columns = (
        *_CUT, Column("kl", "KL, nats a token", "plain", 3), Column("kl_low", "95% from", "plain", 3),
        Column("kl_high", "to", "plain", 3), Column("perplexity", "perplexity", "plain", 1),
        Column("perplexity_low", "95% from", "plain", 1), Column("perplexity_high", "to", "plain", 1),
        Column("times", "times the full model's", "plain", 3), Column("times_low", "95% from", "plain", 3),
        Column("times_high", "to", "plain", 3),
    )  # fmt: skip
    return Table("text", "Every cut on plain text", columns, tuple(rows_of(frame[frame["on"] == "plain text"])))


def _parts(found: Pruned) -> Table:
    at_layer, sizes = found.parts.layer[found.chosen], found.parts.parameters[found.chosen]
    rows: list[dict[str, Any]] = [
        {"name": name, "layer": int(layer), "parameters": int(size)}
        for name, layer, size in zip(found.cut, at_layer, sizes, strict=True)
    ]
    columns = (Column("name", "part"), Column("layer", "layer", "index"), Column("parameters", "parameters", "whole"))
    note = f"Layer by layer; of {whole(len(rows))} the first {min(SHOWN, len(rows))} are shown."
    return Table("parts", "Parts that are cut", columns, tuple(rows), note, SHOWN)
