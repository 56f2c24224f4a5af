"""Help texts in plain sections, one for each panel that options and commands are put into.

Plain, and not in boxes, since it is read in logs and by programs, too, and is there in half the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import typer.core

from veracausa.cli.deferred import Commands, Deferred
from veracausa.cli.listing import listing

#: How wide help may be.
WIDTH = 116


class HelpingCommand(typer.core.TyperCommand):
    """A command whose help has a section for each panel of options."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        params = sorted(self.get_params(ctx), key=lambda one: one.param_type_name != "argument")
        _sections(formatter, ((_panel(one), one.get_help_record(ctx)) for one in params))


class HelpingGroup(typer.core.TyperGroup):
    """A group of deferred commands, whose help has a section for each panel of them; a subclass has the table."""

    deferred: ClassVar[Mapping[str, Deferred]]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = Commands(self.deferred)  # type: ignore[assignment]  # nothing adds to them

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections: commands first."""
        _sections(formatter, ((one.panel, (name, _paragraph(one.help))) for name, one in self.deferred.items()))
        _sections(formatter, (("Options", one.get_help_record(ctx)) for one in self.get_params(ctx)))


def _panel(one: Any) -> str:
    """What an option or argument stands under."""
    return getattr(one, "rich_help_panel", None) or f"{one.param_type_name.capitalize()}s"


def _paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def _sections(formatter: Any, rows: Iterable[tuple[str, tuple[str, str] | None]]) -> None:
    """Write rows under the title of their panel; panels in the order in which they come."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for panel, row in rows:
        if row is not None:
            panels.setdefault(panel, []).append(row)
    for title, found in panels.items():
        formatter.write_paragraph()
        formatter.write(f"{listing(f'{title}:', found, formatter.width)}\n")  # names are not broken at their hyphens
