"""One progress bar for long work: what it does, how far it is, how long it will still take.

Progress is counted in token-layers, not in rows, because a row that enters late is cheap: so the time left is honest.
In a terminal it is a bar, and in a notebook one of plain HTML (rich would need ipywidgets there); elsewhere a line now
and then, on standard error.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any, Protocol

from veracausa.terminal import printable, say

#: Seconds between two lines where there is no terminal.
_LINE_EVERY = 20.0
#: … and between two changes of a bar in a notebook.
_CELL_EVERY = 0.3


class Tick(Protocol):
    """Report that `amount` token-layers are done."""

    def __call__(self, amount: float) -> None:
        """Advance by `amount`."""
        ...


def duration(seconds: float) -> str:
    """A time in words, rounded before it is split, so that 119.7 s are "2 min 0 s": "9 s", "3 min 20 s", "2 h 5 min".

    >>> duration(200)
    '3 min 20 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def left(done: float, total: float, seconds: float) -> str:
    """Time left in words, from what is done so far: '3 min 20 s'."""
    if done <= 0:
        return "…"
    return duration(seconds * (total - done) / done)


def announce(text: str, show: bool) -> None:
    """Tell what is about to be done, on standard error, as the bars are."""
    if show:
        say(text)


@contextmanager
def progress(label: str, total: float, show: bool, done: float = 0.0) -> Iterator[Tick]:
    """A progress bar for `total` token-layers of work of which `done` were finished earlier (a resumed run).

    >>> with progress("exact effects", total=1000, show=True) as tick:
    ...     tick(10)
    """
    if not show or total <= done:
        yield lambda amount: None
    elif sys.stderr.isatty():
        yield from _bar(label, total, done)
    elif (shown := _notebook()) is not None:
        yield from _cell(shown, label, total, done)
    else:
        yield _lines(label, total, done)


def _bar(label: str, total: float, done: float) -> Iterator[Tick]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),  # a name in brackets is a name
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(printable(label), total=total, completed=int(done))
        yield lambda amount: bar.advance(task, amount)


def _notebook() -> Any:
    """`IPython.display` inside a notebook's kernel, None elsewhere; IPython is never loaded for it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    return importlib.import_module("IPython.display")


def _cell(shown: Any, label: str, total: float, done: float) -> Iterator[Tick]:
    """A bar in the cell's output, which goes when the work ends."""
    began = said = time.monotonic()
    reached = 0.0
    handle = shown.display(shown.HTML(_in_html(label, done / total, "…")), display_id=True)

    def tick(amount: float) -> None:
        nonlocal said, reached
        reached += amount
        now = time.monotonic()
        if handle is not None and now - said >= _CELL_EVERY:
            said = now
            rest = left(reached, total - done, now - began)
            handle.update(shown.HTML(_in_html(label, (done + reached) / total, rest)))

    try:
        yield tick
    finally:
        if handle is not None:
            handle.update(shown.HTML(""))


def _in_html(label: str, share: float, rest: str) -> str:
    bar = f'<progress value="{min(share, 1):.4f}" max="1" style="width:16em;vertical-align:middle"></progress>'
    return f"<div>{bar} {escape(printable(label))}: {min(share, 1):.0%}, {rest} left</div>"


def _lines(label: str, total: float, done: float) -> Tick:
    began = said = time.monotonic()
    reached = 0.0

    def tick(amount: float) -> None:
        nonlocal said, reached
        reached += amount
        now = time.monotonic()
        if now - said >= _LINE_EVERY:
            said = now
            share = (done + reached) / total
            say(f"{label}: {share:.0%}, {left(reached, total - done, now - began)} left")

    return tick
