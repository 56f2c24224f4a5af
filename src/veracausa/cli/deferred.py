"""Commands that are read and made when they are first asked for: of 28, a call of the program needs one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any

import typer.main


class Deferred:
    """One command: the function `module.name` of this package, its class, and the panel of the help that it is in."""

    def __init__(self, panel: str, kind: type[Any], where: str) -> None:
        self.panel, self.kind = panel, kind
        self.module, self.function = where.split(".")
        self.name = self.function.rstrip("_").replace("_", "-")

    def _read(self) -> Callable[..., None]:
        function: Callable[..., None] = getattr(import_module(f"veracausa.cli.{self.module}"), self.function)
        return function

    @property
    def help(self) -> str:
        """What it says of itself."""
        return inspect.getdoc(self._read()) or ""

    @cached_property
    def made(self) -> Any:
        """The command, as typer makes it of an app that has no other."""
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(name=self.name, cls=self.kind, rich_help_panel=self.panel)(self._read())
        return typer.main.get_command(alone)


class Commands(Mapping[str, Any]):
    """Commands by their names, in the order of the help; `deferred` has what is known of them before they are made."""

    def __init__(self, deferred: Mapping[str, Deferred]) -> None:
        self.deferred = deferred

    def __getitem__(self, name: str) -> Any:
        return self.deferred[name].made

    def __iter__(self) -> Iterator[str]:
        return iter(self.deferred)

    def __len__(self) -> int:
        return len(self.deferred)
