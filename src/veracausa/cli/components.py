"""The command about parts of weights: exact effects of a map's components, an estimate of them, and what sets do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veracausa.cli.choices import named
from veracausa.cli.command import spread
from veracausa.cli.foretelling import foretold
from veracausa.cli.laying import PartsOptions
from veracausa.cli.output import body_of, finish, rows_of, with_csv
from veracausa.cli.setup import Setup
from veracausa.dictionaries.components import BY_HEAD, SINGULAR
from veracausa.storage.files import csv_text, write_text
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.model import Model
    from veracausa.report.pages.components import MapFound
    from veracausa.tasks.task import Task

Maps = Annotated[
    str,
    typer.Option(
        "--maps",
        metavar="MAPS[@WHAT]",
        help="Maps with commas: m5.down,a9.o,a9.ov; m*.down is of all layers. Their singular directions; @lora behind "
        "them: the ranks of their adapters; @FILE: factors m5.down.U, m5.down.V, @FILE:spd names the set.",
    ),
]
Ablation = Annotated[
    str, named(("zero", "mean", "counterfactual"), "What components are replaced by: zero, mean or counterfactual.")
]
Shown = Annotated[int, typer.Option("--top", metavar="K", help="Components whose words are shown.", min=1)]
Pairs = Annotated[
    int, typer.Option("--interactions", metavar="K", help="Pairs among the K strongest are run, too; 0: none.", min=0)
]


@spread
def components(
    setup: Setup,
    parts: PartsOptions,
    maps: Maps,
    ablation: Ablation = "zero",
    top: Shown = 20,
    interactions: Pairs = 6,
) -> None:
    """Components of maps taken out of the weights, one by one and together, beside an estimate.

    They are singular directions, ranks of a LoRA, factors of your own, or what another checkpoint has not. The folder
    --out has a page (report.html), and of every map effects, estimate, curve and words, as CSV, too.
    """
    lm, task = setup.ready()
    made = parts.parts(lm, [maps])
    lm = lm.reading(*made)
    asked: dict[str, Any] = {"ablation": ablation, "top": top, "interactions": interactions}
    found = [_found(setup, lm, task, one, asked) for one in made]

    def show() -> None:
        for one in found:
            table = one.table()[:10].to_string(index=False, float_format="{:+.4g}".format)
            echo(f"{one.name}\n{table}\n\n{chr(10).join(one.sentences)}\n")

    finish(
        setup.json, show, lambda: {"maps": [_body(one) for one in found]}, lambda out: _kept(found, out), setup.out,
        " and what it is made of",
    )  # fmt: skip


def _found(setup: Setup, lm: Model, task: Task, made: Dictionary, asked: dict[str, Any]) -> MapFound:
    """Everything about one map."""
    from veracausa.effects.exact import exact
    from veracausa.effects.removing import removal_curve
    from veracausa.estimates.attribute import attribute
    from veracausa.reading.component_ends import component_words
    from veracausa.report.pages.components import MapFound
    from veracausa.scores.estimands import BASELINES
    from veracausa.weights.parts import map_name

    name = map_name(made.writes.layer, made.map)
    layer, _, own = name.partition(".")
    units = f"{layer}.h*.{own}*" if own in BY_HEAD else f"{name}.{made.name or SINGULAR}*"
    name = f"{name}.{made.name}" if made.name else name
    ablation, kept = asked["ablation"], {"out": setup.out}
    baseline = next(one for one, other in BASELINES.items() if other == ablation)
    truth = foretold(exact, lm, task, kept, units=units, ablation=ablation)
    guess = foretold(attribute, lm, task, units=units, method="atp", baseline=baseline)
    curve = foretold(removal_curve, lm, task, kept, scores=truth, pairs=asked["interactions"])
    strongest = truth.units[truth.ranking()[: asked["top"]]]
    return MapFound(name, truth, guess, curve, component_words(lm, strongest))


def _body(one: MapFound) -> dict[str, Any]:
    """A map as JSON has it."""
    parts = {"exact": one.exact, "estimate": one.estimate, "curve": one.curve}
    told = {name: body_of(part) for name, part in parts.items()}
    return {"map": one.name, "sentences": one.sentences, "strongest": rows_of(one.table()), **told}


def _kept(found: list[MapFound], out: Path) -> Path:
    """Write everything; says where the page is."""
    from veracausa.report.pages.components import write_page

    for one in found:
        for what, part in (("exact", one.exact), ("estimate", one.estimate), ("curve", one.curve)):
            with_csv(part.save(out / f"{one.name}-{what}.safetensors"), part.table())
        write_text(out / f"{one.name}-strongest.csv", csv_text(one.table()))
    return write_page(found, out / "report.html")
