"""The command about two layers: how strongly the parts of one drive those of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from veracausa.cli.choices import named
from veracausa.cli.command import spread
from veracausa.cli.estimate_options import Sample, Top, Verify
from veracausa.cli.foretelling import foretold
from veracausa.cli.laying import LayingOptions
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.setup import Setup
from veracausa.extras import require_extra
from veracausa.result import ROWS
from veracausa.terminal import echo

if TYPE_CHECKING:
    from pathlib import Path

    from veracausa.interplay.checked import CheckedInteractions
    from veracausa.interplay.results import Interactions

_PARTS = "heads:10, neurons:12@end, features:20@spans, …; or names with commas: a10.h1,a10.h4."
Sources = Annotated[str, typer.Option("--sources", metavar="PARTS", help=f"Parts of one layer: {_PARTS}")]
Readers = Annotated[str, typer.Option("--readers", metavar="PARTS", help=f"Parts of a later layer: {_PARTS}")]
Method = Annotated[
    str, named(("ig", "gradient", "exact"), "ig (integrated gradients), gradient, or exact (run without each source).")
]
Way = Annotated[
    str, named(("whole", "direct"), "whole (through everything between) or direct (the reader alone sees it).")
]
Ablation = Annotated[
    str, named(("counterfactual", "zero", "mean"), "What sources are replaced by: counterfactual, zero or mean.")
]


@spread
def interactions(
    setup: Setup,
    laying: LayingOptions,
    sources: Sources,
    readers: Readers,
    method: Method = "ig",
    way: Way = "whole",
    ablation: Ablation = "counterfactual",
    verify: Verify = False,
    top: Top = 20,
    sample: Sample = 100,
) -> None:
    """How strongly every part of a layer drives every part of a later one; with --verify, against exact ones.

    The folder --out has a page (report.html), the result, and its table as CSV.
    """
    from veracausa.interplay.checking import check
    from veracausa.interplay.interacting import interactions as interact

    if setup.out is not None:
        require_extra("charts")
    lm, task = setup.ready()
    lm = laying.on(lm)
    sides: dict[str, Any] = {"sources": _named(sources), "readers": _named(readers)}
    found: Interactions | CheckedInteractions = foretold(
        interact, lm, task, {"out": setup.out}, method=method, way=way, ablation=ablation, seed=setup.seed, **sides
    )
    if verify:
        found = foretold(check, lm, task, estimate=found, top=top, sample=sample, seed=setup.seed)

    def show() -> None:
        echo(f"{found.describe()}\n\n{found.table()[:ROWS].to_string(index=False, float_format='{:+.4g}'.format)}")

    finish(
        setup.json, show, lambda: body_of(found),
        lambda out: _with_page(found, out), setup.out, ", interactions.csv and report.html",
    )  # fmt: skip


def _with_page(found: Interactions | CheckedInteractions, out: Path) -> Path:
    """Write the numbers, as a table too, and their page beside them."""
    saved = with_csv(found.save(out / "interactions.safetensors"), found.table())
    found.page(out / "report.html")
    return saved


def _named(asked: str) -> str | list[str]:
    """A kind of one layer, or a list of names."""
    return asked if ":" in asked else [name.strip() for name in asked.split(",")]
