"""The command line: one command = one public call.

veracausa study ioi --model smollm2-135m --out out/
veracausa compare ioi --units heads,neurons --minutes 20 --out out/
veracausa check --model gpt2
veracausa dictionary smollm2-135m-r10 --task ioi
veracausa task ioi --model smollm2-135m --show 5
veracausa exact ioi --units neurons --out out/
veracausa attribute ioi --method ig --units heads
veracausa attribute ioi --units neurons --verify --until-missed 50 --budget 0.1
veracausa discover ioi --method eap-ig --edges 200 --out out/
veracausa evaluate out/ --n 32 --seed 7
veracausa adversary out/ --n 16 --budgets sparse
veracausa scoreboard ioi --rankings eap-ig,iterated,random --tasks greater-than --out out/board
veracausa specificity out/ioi out/greater-than
veracausa ablate ioi --units a20.h0,a17.h4 --ablations zero,mean --n 10000 --out out/
veracausa trace ioi --span S2 --units mlps --window 5 --n 8
veracausa steer pairs.csv --tensor vectors.safetensors:happy --units r10 --scales=-4,4
veracausa lens ioi --n 8
veracausa dla ioi --neurons 29 --out out/
veracausa graph ioi --dictionary smollm2-135m-m10 --dictionary smollm2-135m-m20 --out out/
veracausa features ioi --dictionary smollm2-135m-r10 --dictionary smollm2-135m-r20 --out out/
veracausa interactions ioi --sources heads:10 --readers neurons:12 --n 8 --verify
veracausa sweep plan.toml --runner pool --out out/sweep
veracausa prune ioi --units neurons --how fgp,magnitude --share 0.2 --out out/ --export out/smaller
veracausa components ioi --maps m20.down,a20.ov --n 4 --out out/
veracausa open out/exact-neurons.safetensors --json
veracausa compare-pages out/base out/tuned --corresponding --out out/compared
veracausa models; veracausa tasks; veracausa methods
"""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import suppress
from typing import Annotated, ClassVar

import typer

from veracausa.cli.command import BEGUN, Command, TaskCommand, status_of, stopped, terminated
from veracausa.cli.deferred import Deferred
from veracausa.cli.helping import WIDTH, HelpingGroup
from veracausa.errors import VeracausaError
from veracausa.terminal import echo, flushed, say, tolerant
from veracausa.version import __version__

_ASK, _CIRCUITS, _LOOK = "Effects of units", "Circuits and whole studies", "What there is"


class Group(HelpingGroup):
    """All commands, in the order of the help."""

    deferred: ClassVar[dict[str, Deferred]] = {
        one.name: one
        for panel, kind, commands in (
            (_ASK, TaskCommand, "effects.exact effects.attribute states.trace states.steer"),
            (_ASK, TaskCommand, "behaviour.ablate reading.lens reading.dla interplay.interactions graphs.graph"),
            (_ASK, TaskCommand, "feature_circuits.features components.components"),
            (_CIRCUITS, TaskCommand, "studies.study studies.compare circuits.discover judging.scoreboard"),
            (_CIRCUITS, Command, "sweeps.sweep"),
            (_CIRCUITS, TaskCommand, "pruning.prune"),
            (_CIRCUITS, Command, "circuits.evaluate circuits.adversary judging.specificity"),
            (_LOOK, Command, "tasks.tasks models.models methods.methods"),
            (_LOOK, TaskCommand, "tasks.task"),
            (_LOOK, Command, "models.check dictionaries.dictionary opening.open_ comparing.compare_pages"),
        )
        for one in (Deferred(panel, kind, where) for where in commands.split())
    }


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"max_content_width": WIDTH},
    pretty_exceptions_enable=False,
    help="Which part of this language model causes this, and how sure are we?",
    epilog="Begin with `veracausa tasks`, or with `veracausa study ioi --quick`.",
)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; errors of ours are one paragraph, not a traceback."""
    tolerant()
    warnings.formatwarning = _warning
    BEGUN.set(False)
    with suppress(ValueError):  # only the main thread may say what a signal does
        signal.signal(signal.SIGTERM, terminated)
    try:
        app(prog_name="veracausa")
    except VeracausaError as error:
        say(f"{type(error).__name__}: {error}")
        sys.exit(status_of(error))
    except KeyboardInterrupt as error:  # before or after a command; `Command` answers those in between
        say("Interrupted.")
        sys.exit(stopped(error))
    finally:
        flushed()


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as one line, as our errors are; the line of code that it points at is ours, not the user's."""
    return f"{category.__name__}: {message}\n"
