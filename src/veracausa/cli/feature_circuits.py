"""The command about circuits of features: parts of dictionaries over a threshold, and the edges between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from veracausa.cli.choices import named
from veracausa.cli.command import spread
from veracausa.cli.foretelling import foretold
from veracausa.cli.laying import LayingOptions
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.setup import Setup
from veracausa.errors import MethodError
from veracausa.result import ROWS
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.circuits.featured import FeatureCircuit
    from veracausa.circuits.quality.part_curve import PartCurve

#: Nodes where nobody says how many there may be: a backward pass each.
NODES = 100
Method = Annotated[str, named(("ig", "atp"), "ig (gradients averaged along each site's way) or atp (one gradient).")]
Upstream = Annotated[
    str, named(("slope", "run"), "What a node does to the next: slope (at the clean run) or run (in a run of it).")
]
NodeThreshold = Annotated[float, typer.Option(metavar="X", help="Parts with more effect than this are nodes.", min=0)]
EdgeThreshold = Annotated[float, typer.Option(metavar="X", help="Edges with more effect than this are kept.", min=0)]
Most = Annotated[
    int, typer.Option(metavar="N", help="Nodes at most, the strongest; each costs a backward pass.", min=1)
]
ByPosition = Annotated[
    bool, typer.Option("--by-position", help="Every position is a node: for prompts of one template.")
]
Ablation = Annotated[str, named(("counterfactual", "zero"), "What parts are replaced by: counterfactual or zero.")]
Curves = Annotated[bool, typer.Option("--curves/--no-curves", help="Run circuits of several sizes exactly, too.")]


@spread
def features(
    setup: Setup,
    laying: LayingOptions,
    method: Method = "ig",
    upstream: Upstream = "slope",
    node_threshold: NodeThreshold = 0.1,
    edge_threshold: EdgeThreshold = 0.01,
    most: Most = NODES,
    by_position: ByPosition = False,
    ablation: Ablation = "counterfactual",
    curves: Curves = True,
) -> None:
    """A circuit of features and errors of dictionaries, with its edges, and how faithful it is by exact runs.

    The folder --out has a page (report.html), the circuit and its curves, and both as CSV.
    """
    from veracausa.circuits.quality.part_curve import ERRORS, part_curve
    from veracausa.circuits.selection.sparse_features import feature_circuit

    if not laying.dictionary:
        raise MethodError(
            "A circuit of features needs dictionaries: --dictionary smollm2-135m-r10 --dictionary smollm2-135m-r20."
        )
    lm, task = setup.ready()
    lm = laying.on(lm)
    asked: dict[str, Any] = {
        "method": method, "upstream": upstream,
        "node_threshold": node_threshold, "edge_threshold": edge_threshold, "most": most,
        "positions": by_position, "ablation": ablation,
    }  # fmt: skip
    found: FeatureCircuit = foretold(feature_circuit, lm, task, {"out": setup.out}, **asked)
    run: list[PartCurve] = []
    if curves and found.parts:
        how: dict[str, Any] = {"scores": list(found.nodes), "ablation": ablation}
        run = [foretold(part_curve, lm, task, {"out": setup.out}, errors=errors, **how) for errors in ERRORS]

    def show() -> None:
        for table in (found.node_table(), found.table()):
            echo(f"{table[:ROWS].to_string(index=False, float_format='{:+.4g}'.format)}\n")
        echo("\n".join([*found.sentences, *(f"Errors {one.errors}: {one.sentences[0]}" for one in run)]))

    finish(
        setup.json, show, lambda: body_of(found) | {"curves": [body_of(one) for one in run]},
        lambda out: _kept(found, run, out), setup.out, " and report.html",
    )  # fmt: skip


def _kept(found: FeatureCircuit, curves: list[PartCurve], out: Path) -> Path:
    """Write everything; says where the circuit is."""
    from veracausa.report.pages.feature_circuits import write_page

    for one in curves:
        name = out / f"part-curve-{one.errors}.safetensors"
        with_csv(one.save(name), one.table())
    path = with_csv(found.save(out / "feature-circuit.safetensors"), found.table())
    write_page(found, out / "report.html", curves)
    return path
