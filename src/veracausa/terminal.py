"""What reaches the terminal: names come from files, prompts and models, and must not give it orders.

Escape sequences can clear a screen, rename a window or hide what was printed; bidirectional controls can turn a line
round. All of them are shown instead of obeyed, in errors as in results.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from typing import Any, TextIO

#: Controls but for the new line and the tab; line separators; marks that change the direction of text; lone surrogates.
_ORDERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: Any) -> str:
    """The text with control characters shown as escapes, as `repr` would; new lines and tabs stay.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return _ORDERS.sub(lambda found: ascii(found[0])[1:-1], str(text))


def echo(text: Any = "") -> None:
    """A line on standard output, with nothing in it that a terminal would obey."""
    _write(f"{printable(text)}\n", sys.stdout)


def say(text: Any) -> None:
    """A line on standard error, beside the results."""
    _write(f"{printable(text)}\n", sys.stderr)


def tolerant() -> None:
    """Let standard output and error show `?` for what their encoding lacks, rather than end the command."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # none, or a stand-in that cannot be told
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def flushed() -> None:
    """Write out what is buffered, while somebody still looks after a pipe that is gone."""
    for stream in (sys.stdout, sys.stderr):
        _write("", stream)


def _write(text: str, stream: TextIO | None) -> None:
    """Write to a stream; where its reader has gone (`| head`), the rest goes nowhere and the work goes on."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
