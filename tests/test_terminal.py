"""Names must not give the terminal orders, and what it cannot show must not end a command."""

import io
import sys

import pytest

from veracausa.errors import FileError
from veracausa.progress import announce, progress
from veracausa.terminal import echo, printable, say, tolerant

EVIL = "a\x1b[2J\x1b]0;title\x07b\rc\x9bd\u202ee\ud800"


def test_control_characters_are_shown():
    shown = printable(EVIL)
    assert shown == "a\\x1b[2J\\x1b]0;title\\x07b\\rc\\x9bd\\u202ee\\ud800"
    assert printable("two\nlines\twith • and é 日本語") == "two\nlines\twith • and é 日本語"
    assert str(FileError(EVIL)) == shown and f"{FileError('[red]')}" == "[red]"


def test_everything_that_is_printed(capsys):
    echo(EVIL)
    say(EVIL)
    announce(EVIL, True)
    told = capsys.readouterr()
    assert told.out == f"{printable(EVIL)}\n" and told.err == 2 * f"{printable(EVIL)}\n"


def test_bars_take_no_markup_from_names(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("exact of [red]a[/nonsense] \x1b]0;title\x07", 10, True) as tick:
        tick(5)
    assert "[red]a[/nonsense]" in terminal.getvalue() and "\x1b]0;title" not in terminal.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_becomes_a_question_mark(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    tolerant()
    echo("• naïve −3")
    assert raw.getvalue().decode(encoding) in ("? na?ve ?3\n", "? naïve ?3\n")


def test_a_reader_that_has_gone_does_not_end_the_work(monkeypatch):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    echo("first")
    echo("second")
    monkeypatch.setattr(sys, "stdout", None)
    echo("nobody")
