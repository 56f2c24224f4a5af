"""Commands about what a model answers: ablate units, and see what becomes of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from veracausa.cli.checks import require_folder, require_task, units_of
from veracausa.cli.parts import (
    Device,
    Dtype,
    Metric,
    ModelName,
    Out,
    Pairs,
    Seed,
    TaskName,
    load_model,
    load_task,
    saved,
)
from veracausa.terminal import echo, say


def ablate(
    task: TaskName,
    units: Annotated[str, typer.Option(help="Heads, attention layers, MLPs or neurons: a20.h0,a17.h4,m29.")],
    model: ModelName = "smollm2-135m",
    ablations: Annotated[str, typer.Option(help="zero, mean, resample, counterfactual; several: zero,mean.")] = (
        "zero,mean"
    ),
    together: Annotated[bool, typer.Option(help="Also ablate all units at once.")] = True,
    new_tokens: Annotated[int, typer.Option(help="Tokens to generate; 1 decides for answers of one token.", min=1)] = 1,
    n: Pairs = 1000,
    seed: Seed = 0,
    metric: Metric = None,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Ablate units one at a time and together; what becomes of the metric and of the model's greedy answers."""
    from veracausa.behaviour.chosen import require_ablations, require_single
    from veracausa.behaviour.study import ablation_study
    from veracausa.storage.files import csv_text, write_text

    wanted = require_ablations(ablations.split(","))
    units_of(units)
    require_single(units.split(","))
    require_task(task, metric)
    require_folder(out)
    lm = load_model(model, device, dtype)
    built = load_task(lm, task, n, seed, metric)
    say(f"task   {built.describe()}")
    found = ablation_study(
        lm, built, units=units, ablations=wanted, together=together, new_tokens=new_tokens, seed=seed,
        out=out,
    )  # fmt: skip
    echo(found)
    for sentence in found.sentences:
        echo(f"• {sentence}")
    if out is not None:

        def write(folder: Path) -> Path:
            path = found.save(folder / "ablation-study.safetensors")
            write_text(path.with_suffix(".csv"), csv_text(found.table()))
            return path

        path = saved(write, out)
        echo(f"\nSaved {path} and {path.with_suffix('.csv').name}")
