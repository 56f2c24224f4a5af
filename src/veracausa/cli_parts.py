"""What the commands share: options, the task by position or by name, the model and the task that they name."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task


class TaskCommand(typer.core.TyperCommand):
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
Pairs = Annotated[int, typer.Option("--n", help="How many prompt pairs to generate.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed for the prompts and samples.")]
Metric = Annotated[str | None, typer.Option(help="logit_diff, logit_diff_lse, logprob, prob, prob_diff or neg_kl.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, … (default: a GPU if there is one).")]
Dtype = Annotated[str | None, typer.Option(help="float32 (default), bfloat16, float64, …")]
Out = Annotated[Path | None, typer.Option(help="Folder for results; a killed run continues from it.")]


def load_model(model: str, device: str | None, dtype: str | None) -> Model:
    """The model of --model, and on standard error what it is."""
    from veracausa.model import load

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

    path = Path(name)
    if path.suffix in (".csv", ".jsonl", ".parquet", ".json"):
        options: dict[str, Any] = {} if metric is None else {"metric": metric}
        return tasks.from_file(lm, path, **options)
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


def say(text: str) -> None:
    """A line on standard error, beside the results."""
    print(text, file=sys.stderr)


def took(seconds: float) -> str:
    """How long the work took, and what that leaves out."""
    from veracausa.progress import duration

    return f"{duration(seconds)}, besides loading the model and drawing the page."
