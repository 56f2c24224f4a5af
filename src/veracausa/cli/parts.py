"""What the commands share: options, the task by position or by name, the model and the task that they name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from veracausa.cli.checks import is_file
from veracausa.storage.files import at
from veracausa.terminal import say

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


class Command(typer.core.TyperCommand):
    """A command that, interrupted, says what was kept before it ends."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends with status 130 and SIGTERM with 143, as shells expect."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            say(_interrupted(ctx.params.get("out") or ctx.params.get("folder")))
            raise typer.Exit(143 if isinstance(error, Terminated) else 130) from None


def _interrupted(out: Path | None) -> str:
    """What an interrupted command says."""
    if out is None:
        return "Interrupted. Nothing is kept; with --out, finished pieces are, and the same command continues."
    if not out.is_dir() or not any(out.iterdir()):
        return f"Interrupted. No piece was finished yet, so there is nothing in {out}."
    return f"Interrupted. Finished pieces are kept in {out}: run the same command again to continue."


class TaskCommand(Command):
    """A command whose task may be given by position or behind --task."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the value of --task in front."""
        for i, word in enumerate(args):
            name, equals, value = word.partition("=")
            if name == "--task" and (equals or i + 1 < len(args)):
                chosen, rest = (value, args[i + 1 :]) if equals else (args[i + 1], args[i + 2 :])
                args = [chosen, *args[:i], *rest]
                break
        return super().parse_args(ctx, args)


ModelName = Annotated[
    str, typer.Option("--model", "-m", help="smollm2-135m, gemma3-270m, a hub id, a folder or a .gguf file.")
]
TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="ioi, ioi-published, greater-than, subject-verb, gendered-pronoun, capital-country, hypernymy; or a .csv, "
        ".jsonl or .parquet file with columns clean, corrupted, correct, incorrect. Also: --task TASK.",
    ),
]
Folder = Annotated[Path, typer.Option(help="Folder for the page; a killed run continues from it.", parser=at)]
Pairs = Annotated[int, typer.Option("--n", help="How many prompt pairs to generate.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed for the prompts and samples.")]
Metric = Annotated[str | None, typer.Option(help="logit_diff, logit_diff_lse, logprob, prob, prob_diff or neg_kl.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … (default: a GPU if there is one).")]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), bfloat16, float64, …")]
Out = Annotated[Path | None, typer.Option(help="Folder for results; a killed run continues from it.", parser=at)]


def load_model(model: str, device: str | None, dtype: str | None) -> Model:
    """The model of --model, and on standard error what it is."""
    from veracausa.loading.load import load

    if dtype is not None:
        import torch

        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise typer.BadParameter(f"{dtype!r} is no precision that torch knows; try float32 or bfloat16")
        lm = load(model, device=device, dtype=found)
    else:
        lm = load(model, device=device)
    say(f"model  {lm.source}\n       {lm}")
    return lm


def load_task(lm: Model, name: str, n: int, seed: int, metric: str | None) -> Task:
    """The task of a name or file."""
    from veracausa import tasks

    if is_file(name):
        options: dict[str, Any] = {} if metric is None else {"metric": metric}
        return tasks.from_file(lm, at(name), **options)
    built = tasks.published_pair(lm) if name == "ioi-published" else tasks.build(name, lm, n=n, seed=seed)
    return built if metric is None else built.with_metric(metric)


def saved(write: Callable[[Path], Path], out: Path) -> Path:
    """Save what was computed and printed in `out`; where that fails, in a folder for temporary files, and say so.

    The command then ends with status 2 like any other error.

    Raises:
        FileError: it can be written nowhere.
    """
    from veracausa.errors import FileError

    try:
        return write(out)
    except FileError as error:
        say(f"FileError: {error}")
        try:
            path = write(Path(tempfile.mkdtemp(prefix="veracausa-")))
        except (OSError, FileError):
            raise error from None
        say(f"What was computed is in {path.parent} instead. Finished pieces stay where they could be written.")
        raise typer.Exit(2) from None


def took(seconds: float) -> str:
    """How long the work took, and what that leaves out."""
    from veracausa.progress import duration

    return f"{duration(seconds)}, besides loading the model and drawing the page."
