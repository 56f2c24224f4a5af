"""How commands are run: the task by position or by name, shared options spread out of a setup, interruptions, status.

Status 0: done. 1: it failed, or a contract does. 2: what was asked for cannot be run. 130, 143: Ctrl-C, SIGTERM.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from veracausa.arguments import bytes_of
from veracausa.cli.helping import HelpingCommand
from veracausa.errors import DownloadError, ExtraError, MethodError, OutOfMemoryError, UnitError, VeracausaError
from veracausa.terminal import say

if TYPE_CHECKING:
    from typing_extensions import Self

FAILED, REFUSED = 1, 2
#: What stands over shared options in help texts, in this order.
PANELS = (None, "Receipt", "Pairs", "Model", "Output")
#: Whether model and pairs are there and the work has begun.
BEGUN: ContextVar[bool] = ContextVar("begun", default=False)
#: Errors that are about what was asked for, whenever they are noticed; and those that never are.
_ASKED, _NOT_ASKED = (MethodError, UnitError), (DownloadError, ExtraError, OutOfMemoryError)


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


def status_of(error: VeracausaError) -> int:
    """2 for what cannot be run as it was asked for, 1 for work that failed."""
    asked = isinstance(error, _ASKED) or not (BEGUN.get() or isinstance(error, _NOT_ASKED))
    return REFUSED if asked else FAILED


def terminated(number: int, frame: object) -> None:
    """What SIGTERM does."""
    raise Terminated


def stopped(error: KeyboardInterrupt) -> int:
    """The status that shells expect of an interrupted command."""
    return 143 if isinstance(error, Terminated) else 130


class Command(HelpingCommand):
    """A command that, interrupted, says what was kept before it ends."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends with status 130 and SIGTERM with 143."""
        try:
            with _memory(ctx.params.get("memory")):
                return super().invoke(ctx)
        except KeyboardInterrupt as error:
            say(_interrupted(ctx.params.get("out") or ctx.params.get("folder"), "out" in ctx.params))
            raise typer.Exit(stopped(error)) from None


def _memory(given: str | None) -> AbstractContextManager[None]:
    """All calls inside work within so much memory."""
    if given is None:
        return nullcontext()  # nothing that needs torch is read for it
    from veracausa.engine.budget import within

    return within(bytes_of(given))


def _interrupted(out: Path | None, can_keep: bool) -> str:
    """What an interrupted command says."""
    if out is None:
        hint = " Nothing is kept; with --out, finished pieces are, and the same command continues."
        return f"Interrupted.{hint * can_keep}"
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


class Options:
    """Options that several commands share: annotations, with their defaults. (As dataclasses they would cost time.)

    >>> class Setup(Options):
    ...     n: Pairs = 32
    """

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    def but(self, **changes: Any) -> Self:
        """The same with some options changed."""
        return type(self)(**{**vars(self), **changes})


def spread(function: Callable[..., None]) -> Callable[..., None]:
    """The function for typer, which wants every option as a parameter.

    A parameter whose type is a class of `Options` stands for them all; they come behind the function's own.

    >>> @app.command()
    ... @spread
    ... def exact(setup: Setup, units: Units = "heads") -> None: ...
    """
    own: list[inspect.Parameter] = []
    shared: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Options):
            groups[parameter.name] = parameter.annotation
            shared += _options(parameter.annotation)
        else:
            own.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    def call(**given: Any) -> None:
        made = {
            name: kind(**{one.name: given.pop(one.name) for one in _options(kind)}) for name, kind in groups.items()
        }
        function(**made, **given)

    parameters = [*own, *sorted(shared, key=lambda one: PANELS.index(one.annotation.__metadata__[0].rich_help_panel))]
    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__annotations__ = {one.name: one.annotation for one in parameters}
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return call


def _options(kind: Any) -> list[inspect.Parameter]:
    """The options that a class of them has."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(kind, name, inspect.Parameter.empty),
            annotation=annotation,
        )
        for name, annotation in hints.items()
    ]
