"""The command line: one command = one public call.

veracausa study ioi --model smollm2-135m --out out/
veracausa compare ioi --units heads,neurons --budget 20 --out out/
veracausa check --model gpt2
veracausa task ioi --model smollm2-135m --show 5
veracausa exact ioi --units neurons --out out/
veracausa attribute ioi --method ig --units heads --out out/
veracausa attribute ioi --units neurons --verify --until-missed 50 --budget 0.1
veracausa discover ioi --method eap-ig --edges 200 --out out/
veracausa evaluate out/ --n 32 --seed 7
veracausa ablate ioi --units a20.h0,a17.h4 --ablations zero,mean --n 10000 --out out/
"""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from veracausa.cli import behaviour as cli_behaviour
from veracausa.cli import circuits as cli_circuits
from veracausa.cli.checks import require_folder, require_method, require_task, units_of
from veracausa.cli.parts import (
    Command,
    Device,
    Dtype,
    Folder,
    Metric,
    ModelName,
    Out,
    Pairs,
    Seed,
    TaskCommand,
    TaskName,
    Terminated,
    load_model,
    load_task,
    saved,
    took,
)
from veracausa.storage.files import csv_text, write_text
from veracausa.terminal import echo, flushed, say, tolerant
from veracausa.version import __version__

if TYPE_CHECKING:
    from veracausa.receipts.receipts import Receipt
    from veracausa.scores.scores import Scores

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Which part of this language model causes this, and how sure are we?",
)
app.command(cls=TaskCommand)(cli_circuits.discover)
app.command(cls=Command)(cli_circuits.evaluate)
app.command(cls=TaskCommand)(cli_behaviour.ablate)


@app.command(cls=TaskCommand)
def study(
    task: TaskName,
    model: ModelName = "smollm2-135m",
    out: Folder = Path("out"),
    n: Annotated[int | None, typer.Option(help="Pairs of a generated task (default: the size's).", min=1)] = None,
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Under a minute: heads and MLPs of a few pairs.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="All neurons, 10,000 prompts, all searches: an hour or more.")
    ] = False,
    metric: Metric = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Exact effects against gradient estimates: where they disagree and why, as one offline page."""
    from veracausa.errors import MethodError
    from veracausa.extras import require_extra
    from veracausa.studies.levels import LEVELS
    from veracausa.studies.study import study as run

    if quick and full:
        raise MethodError("--quick and --full are two sizes of a study; give one of them.")
    require_extra("charts")
    require_task(task, metric)
    require_folder(out)
    level = LEVELS["quick" if quick else "full" if full else "default"]
    lm = load_model(model, device, dtype)
    tasks = [load_task(lm, task, n or level.pairs, seed, metric)]
    if task == "ioi" and level is not LEVELS["quick"]:
        tasks.insert(0, load_task(lm, "ioi-published", 1, seed, metric))
    for one in tasks:
        say(f"task   {one.describe()}")
    page = run(lm, tasks, level=level, seed=seed, out=out)
    for sentence in page.summary:
        echo(f"• {sentence}")
    path = saved(page.save, out)
    echo(f"\n{took(page.seconds)} Report: {path.resolve()}")


@app.command(cls=TaskCommand)
def compare(
    task: TaskName,
    model: ModelName = "smollm2-135m",
    units: Annotated[str, typer.Option(help="Kinds of units, e.g. heads,neurons.")] = "heads,neurons",
    methods: Annotated[str, typer.Option(help="all, or names: atp,relp,eap-ig.")] = "all",
    budget: Annotated[float | None, typer.Option(help="Minutes; what does not fit is listed as left out.")] = None,
    out: Folder = Path("out"),
    n: Pairs = 32,
    seed: Seed = 0,
    metric: Metric = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Which method to take: all estimates against exact effects, with cost and stability, as a table and a page."""
    import pandas as pd

    from veracausa.extras import require_extra
    from veracausa.studies.compare import compare as run
    from veracausa.studies.compare import require_compared, table

    kinds, chosen = units.split(","), "all" if methods == "all" else methods.split(",")
    require_extra("charts")
    require_compared(kinds, chosen, budget)
    require_task(task, metric)
    require_folder(out)
    lm = load_model(model, device, dtype)
    built = load_task(lm, task, n, seed, metric)
    say(f"task   {built.describe()}")
    page = run(lm, built, units=kinds, methods=chosen, budget=budget, seed=seed, out=out)
    for section in page.sections:
        for panel in section.panels:
            echo(f"\n{panel.kind} of {section.task.describe()}")
            echo(pd.DataFrame(table(panel)).round(4).to_string(index=False, na_rep=""))
    for line in (*page.summary, *page.notes):
        echo(f"• {line}")
    path = saved(page.save, out)
    echo(f"\n{took(page.seconds)} Page: {path.resolve()}")


@app.command(cls=Command)
def check(
    model: ModelName = "smollm2-135m",
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Test the contracts on this very model, and print each with its error."""
    lm = load_model(model, device, dtype)
    outcomes = lm.check(strict=False)
    for outcome in outcomes:
        echo(outcome)
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if failed:
        echo(f"\n{len(failed)} of {len(outcomes)} contracts fail: do not trust effects on this model.")
        raise typer.Exit(1)
    echo(f"\nAll {len(outcomes)} contracts hold. Errors are shares of the gap M(clean) − M(corrupted).")


@app.command(name="task", cls=TaskCommand)
def show_task(
    task: TaskName,
    model: ModelName = "smollm2-135m",
    show: Annotated[int, typer.Option(help="How many pairs to print.", min=0)] = 5,
    n: Pairs = 64,
    seed: Seed = 0,
    metric: Metric = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Print prompt pairs with their tokens and answers, and how well the model does on them."""
    require_task(task, metric)
    lm = load_model(model, device, dtype)
    built = load_task(lm, task, n, seed, metric)
    measured = lm.measure(built)
    echo(built.describe())
    for i in range(min(show, len(built))):
        clean, corrupted = ([token.replace("\n", "⏎") for token in tokens] for tokens in built.tokens(i))
        correct, incorrect = built.answer_strings(i)
        echo(f"\n{i}  clean      {'|'.join(clean)}")
        echo(f"   corrupted  {'|'.join(b if a != b else '·' * len(b) for a, b in zip(clean, corrupted, strict=True))}")
        echo(f"   correct    {'|'.join(correct)}    incorrect  {'|'.join(incorrect) or '(none)'}")
        echo(f"   metric     {measured.clean[i]:+.3f} clean, {measured.corrupted[i]:+.3f} corrupted")
    from veracausa.statistics.gaps import cautions
    from veracausa.tasks.metrics import compares_answers

    share = (measured.clean > 0).double().mean()
    echo(
        f"\nmean {built.metric}: {measured.clean.mean():+.3f} clean, {measured.corrupted.mean():+.3f} corrupted, "
        f"gap {measured.gap.mean():.3f}"
    )
    for caution in cautions(measured.clean, measured.corrupted, compares=compares_answers(built.metric)):
        echo(f"caution: {caution}")
    echo(f"positive on {share:.0%} of the clean prompts; hardly separated (under a tenth of the mean gap): "
          f"{len(measured.weak)} of {len(built)} pairs")  # fmt: skip


@app.command(name="exact", cls=TaskCommand)
def exact_effects(
    task: TaskName,
    model: ModelName = "smollm2-135m",
    units: Annotated[
        str, typer.Option(help="heads, mlps, attention, neurons, residual; or names: a20.h0,a17.h4")
    ] = "heads",
    ablation: Annotated[str, typer.Option(help="counterfactual, zero, mean or resample.")] = "counterfactual",
    direction: Annotated[str, typer.Option(help="noising or denoising.")] = "noising",
    n: Pairs = 16,
    seed: Seed = 0,
    metric: Metric = None,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Exact causal effects of units."""
    from veracausa.effects.exact import exact
    from veracausa.effects.replacements import require_effect

    wanted = units_of(units)
    require_effect(ablation, direction)
    require_task(task, metric)
    require_folder(out)
    lm = load_model(model, device, dtype)
    built = load_task(lm, task, n, seed, metric)
    scores = exact(lm, built, units=wanted, ablation=ablation, direction=direction, seed=seed, out=out)
    how = [ablation] * (ablation != "counterfactual") + [direction] * (direction != "noising")
    _finish(scores, out, "-".join(["exact", scores.units.kind, *how]))


@app.command(cls=TaskCommand)
def attribute(
    task: TaskName,
    model: ModelName = "smollm2-135m",
    method: Annotated[
        str,
        typer.Option(
            help="atp, atp-star, ig, eap-ig, conductance, ceap, eap-gp, gradpath-complete, expected-gradients, "
            "geodesic-ig, gim, relp, or mask (learned)."
        ),
    ] = "atp",
    units: Annotated[
        str, typer.Option(help="heads, mlps, attention, neurons, residual; or names: a20.h0,a17.h4")
    ] = "heads",
    baseline: Annotated[str | None, typer.Option(help="corrupted, zero or mean.")] = None,
    direction: Annotated[str, typer.Option(help="noising or denoising.")] = "noising",
    nodes: Annotated[int | None, typer.Option(help="Points on the path.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check it against exact effects; print a receipt.")] = False,
    top: Annotated[int, typer.Option(help="How many of the strongest units to verify.")] = 50,
    sample: Annotated[int, typer.Option(help="How many of the others, drawn at random, to verify.")] = 300,
    tau: Annotated[float, typer.Option(help="A unit is strong above this share of the gap.")] = 0.01,
    until_missed: Annotated[
        int | None, typer.Option(help="Go on verifying until at most so many strong units can be missed.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Largest share of the cost of exact effects of all units to spend.")
    ] = None,
    n: Pairs = 16,
    seed: Seed = 0,
    metric: Metric = None,
    out: Out = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Estimates of effects from gradients, or a learned mask; with --verify, how far they can be trusted."""
    from veracausa.estimates.attribute import attribute as estimate
    from veracausa.estimates.learned.masks import learn_mask

    if method == "mask" and (baseline, direction, nodes) != (None, "noising", None):
        raise typer.BadParameter("a mask replaces units by corrupted values in the clean run, and has no nodes")
    if not verify and (until_missed is not None or budget is not None):
        raise typer.BadParameter("add --verify: --until-missed and --budget say how far it goes")
    from veracausa.receipts.stages import Until
    from veracausa.receipts.verify import require_sizes
    from veracausa.receipts.verify import verify as check_estimate

    wanted = units_of(units)
    if method != "mask":
        require_method(method, wanted, metric, baseline, direction, nodes)
    until = None if until_missed is None else Until(missed=until_missed, tau=tau)
    if verify:
        require_sizes(top, sample, seed, until, budget, tau)
    require_task(task, metric)
    require_folder(out)
    lm = load_model(model, device, dtype)
    built = load_task(lm, task, n, seed, metric)
    if method == "mask":
        scores = learn_mask(lm, built, units=wanted, seed=seed)
    else:
        scores = estimate(lm, built, units=wanted, method=method, baseline=baseline, direction=direction, nodes=nodes)
    how = [baseline] * (baseline not in (None, "corrupted")) + [direction] * (direction != "noising")
    name = "-".join([method, scores.units.kind, *(part for part in how if part)])
    if not verify:
        _finish(scores, out, name)
        return
    receipt = check_estimate(
        lm, built, scores, top=top, sample=sample, tau=tau, seed=seed, until=until, budget=budget, out=out
    )
    echo(f"{receipt.scores}\n\n{receipt}")
    if out is not None:
        path = saved(lambda folder: _saved_receipt(receipt, folder, name), out)
        echo(f"\nSaved {path} and {path.with_suffix('.txt').name}, and the scores as {name}.safetensors and .csv")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        echo(__version__)
        raise typer.Exit


def _finish(scores: Scores, out: Path | None, name: str) -> None:
    echo(scores)
    if out is not None:
        path = saved(lambda folder: _saved_scores(scores, folder, name), out)
        echo(f"\nSaved {path} and {path.with_suffix('.csv').name}")


def _saved_scores(scores: Scores, folder: Path, name: str) -> Path:
    path = scores.save(folder / f"{name}.safetensors")
    write_text(path.with_suffix(".csv"), csv_text(scores.table()))
    return path


def _saved_receipt(receipt: Receipt, folder: Path, name: str) -> Path:
    _saved_scores(receipt.scores, folder, name)
    path = receipt.save(folder / f"{name}-receipt.safetensors")
    write_text(path.with_suffix(".txt"), f"{receipt}\n")
    return path


def main() -> None:
    """Run the command line; errors of ours are one paragraph, not a traceback."""
    from veracausa.errors import VeracausaError

    tolerant()
    warnings.formatwarning = _warning
    with suppress(ValueError):  # only the main thread may say what a signal does
        signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except VeracausaError as error:
        say(f"{type(error).__name__}: {error}")
        sys.exit(2)
    except KeyboardInterrupt as error:  # before or after a command; `Command` answers those in between
        say("Interrupted.")
        sys.exit(143 if isinstance(error, Terminated) else 130)
    finally:
        flushed()


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line, as our errors are; the line of code that it points at is ours, not the user's."""
    return f"{category.__name__}: {message}\n"


def _terminated(number: int, frame: object) -> None:
    raise Terminated


if __name__ == "__main__":
    main()
