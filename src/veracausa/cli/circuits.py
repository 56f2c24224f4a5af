"""Commands about circuits: find one, and run it on other pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from veracausa.cli.checks import require_edge_method, require_folder, require_selection, require_task
from veracausa.cli.parts import (
    Device,
    Dtype,
    Folder,
    Metric,
    ModelName,
    Pairs,
    Seed,
    TaskName,
    load_model,
    load_task,
    saved,
    took,
)
from veracausa.storage.files import at
from veracausa.terminal import echo, say

Sizes = Annotated[
    str | None, typer.Option(help="Shares of the edges for the curve, e.g. 0.001,0.01,0.1,1 (default: ten sizes).")
]


def discover(
    task: TaskName,
    model: ModelName = "smollm2-135m",
    method: Annotated[
        str,
        typer.Option(
            help="eap, eap-ig, eap-ig-activations, eap-gp, ceap, conductance, gradpath-complete, expected-gradients, "
            "geodesic-ig, gim, relp, qk-exact, ifr; iterated; learned; or exact."
        ),
    ] = "eap-ig",
    edges: Annotated[int, typer.Option(help="Edges asked for; dead ends are pruned.")] = 200,
    how: Annotated[str, typer.Option(help="connected, greedy, top, abs or optimal.")] = "connected",
    sizes: Sizes = None,
    held_out: Annotated[
        str | None, typer.Option("--held-out", help="A file of pairs to evaluate on (default: half of the pairs).")
    ] = None,
    top: Annotated[int, typer.Option(help="How many of the strongest edges to verify by exact effects.", min=0)] = 100,
    sample: Annotated[int, typer.Option(help="How many others, drawn at random, to verify.", min=0)] = 50,
    out: Folder = Path("out"),
    n: Pairs = 32,
    seed: Seed = 0,
    metric: Metric = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find the circuit of a behaviour on half of the pairs, verify its scores, evaluate it on the other half."""
    from veracausa.circuits.quality.curve import SIZES, require_sizes
    from veracausa.discovery.discover import discover as run
    from veracausa.extras import require_extra

    require_extra("charts")
    shares = _shares(sizes) or list(SIZES)
    require_sizes(shares)
    require_edge_method(method)
    require_selection(edges, how)
    for name in (task, *([held_out] if held_out else [])):
        require_task(name, metric)
    require_folder(out)
    lm = load_model(model, device, dtype)
    built = load_task(lm, task, n, seed, metric)
    other = None if held_out is None else load_task(lm, held_out, n, seed + 1, metric)
    say(f"task   {built.describe()}")
    found = run(
        lm, built, method=method, edges=edges, how=how, held_out=other, sizes=shares, top=top, sample=sample, seed=seed,
        out=out,
    )  # fmt: skip
    echo(found)
    page = saved(found.save, out)
    echo(f"\n{took(found.seconds)} Page: {page.resolve()}")


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a `veracausa discover`.", parser=at)],
    task: Annotated[
        str | None, typer.Option(help="A task or a file, as for discover (default: the circuit's task, drawn anew).")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the model of the circuit.")] = None,
    sizes: Sizes = None,
    ablation: Annotated[
        str, typer.Option(help="Edges outside the circuit carry: counterfactual, resample, zero, mean or optimal.")
    ] = "counterfactual",
    n: Pairs = 16,
    seed: Annotated[int | None, typer.Option(help="Seed for the prompts (default: another than discover's).")] = None,
    metric: Metric = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Run a circuit that was found before on other pairs; adds a section to its page and tables to its folder."""
    from veracausa.circuits.quality.curve import require_sizes
    from veracausa.circuits.runs.ablations import require_ablation
    from veracausa.discovery.files import load_discovery
    from veracausa.discovery.other_tasks import evaluate as run
    from veracausa.errors import TaskError
    from veracausa.extras import require_extra
    from veracausa.tasks import BUILTIN

    require_extra("charts")
    shares = _shares(sizes)
    if shares is not None:
        require_sizes(shares)
    require_ablation(ablation)
    found = load_discovery(folder)
    name = found.pairs.name if task is None else task
    if task is None and name not in BUILTIN:
        raise TaskError(
            f"The pairs of {folder} came from {name!r}, which cannot be drawn anew. Add --task TASK or FILE."
        )
    require_task(name, metric or found.pairs.metric)
    if seed is None:
        seed = int(found.pairs.options.get("seed", 0)) + 1
    lm = load_model(found.circuit.model["name"] if model is None else model, device, dtype)
    built = load_task(lm, name, n, seed, metric or found.pairs.metric)
    say(f"task   {built.describe()}")
    evaluation = run(lm, folder, built, sizes=shares, ablation=ablation)
    echo(evaluation)
    echo(f"\nPage: {(at(folder) / 'report.html').resolve()}")


def _shares(text: str | None) -> list[float] | None:
    """The numbers of --sizes."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--sizes {text!r} is no list of shares; write e.g. 0.001,0.01,0.1,1") from None
