"""Progress: silent when asked, lines where there is no terminal, honest about the time left."""

import re
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import veracausa as vc
from veracausa import progress as module
from veracausa.progress import duration, left, progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(
    ("done", "total", "seconds", "words"),
    [(0, 10, 5, "…"), (5, 10, 10, "10 s"), (1, 10, 1, "9 s"), (1, 21, 10, "3 min 20 s"), (10, 10, 3, "0 s")],
)
def test_time_left_in_words(done, total, seconds, words):
    assert left(done, total, seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),  # was "60 s"
        (119.7, "2 min 0 s"),  # was "1 min 60 s"
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7170, "2 h 0 min"),  # 1 h 59.5 min
        (7500, "2 h 5 min"),
    ],
)
def test_rounding_carries_into_the_next_unit(seconds, words):
    assert duration(seconds) == words


def test_lines_tell_share_and_time(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with progress("work", 1000, True) as tick:
        clock.now = 10
        tick(100)  # too early for a line
        assert capsys.readouterr().err == ""
        clock.now = 25
        tick(150)
        assert capsys.readouterr().err == "work: 25%, 1 min 15 s left\n"
        clock.now = 30
        tick(50)
        assert capsys.readouterr().err == ""
        clock.now = 50
        tick(200)
        assert capsys.readouterr().err == "work: 50%, 50 s left\n"


def test_a_resumed_run_counts_only_its_own_speed(monkeypatch, capsys):
    """Half was there already: 250 of the other 500 in 100 s leave another 100 s, not 33."""
    clock = Clock(monkeypatch)
    with progress("work", 1000, True, done=500) as tick:
        clock.now = 100
        tick(250)
    assert capsys.readouterr().err == "work: 75%, 1 min 40 s left\n"


def test_silent(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    for total, show, done in ((1000, False, 0), (10, True, 10)):
        with progress("work", total, show, done) as tick:
            clock.now += 100
            tick(5)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress("work", 1000, True) as tick:
        tick(1000)
    assert "Traceback" not in capsys.readouterr().err


def test_exceptions_pass_through():
    with pytest.raises(ZeroDivisionError), progress("work", 10, True):
        _ = 1 / 0


@pytest.mark.parametrize("call", ["exact", "denoising", "positions", "atp", "ig"])
def test_ticks_add_up_to_the_total(tiny, task_of, monkeypatch, call):
    """Token-layers reported = token-layers announced, so that 100% is the end."""
    announced, ticked = [], []

    @contextmanager
    def counting(label, total, show, done=0.0):
        announced.append(total - done)  # what is counted when the bar appears is done
        yield ticked.append

    monkeypatch.setattr("veracausa.engine.session.progress", counting)
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    {
        "exact": lambda: vc.exact(lm, task),
        "denoising": lambda: vc.exact(lm, task, units="neurons", direction="denoising"),
        "positions": lambda: vc.exact(lm, task, units="heads@positions"),
        "atp": lambda: vc.attribute(lm, task),
        "ig": lambda: vc.attribute(lm, task, method="ig", nodes=3),
    }[call]()
    assert len(announced) == 1
    assert sum(ticked) == pytest.approx(announced[0])


def test_a_line_of_a_real_run(tiny, task_of, monkeypatch, capsys):
    monkeypatch.setattr(module, "_LINE_EVERY", 0.0)
    vc.exact(tiny("llama"), task_of(6), units="neurons", rows=10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert all(re.fullmatch(r"exact effects of 120 neurons: \d+%, \d+ s left", line) for line in lines)
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]
    assert shares == sorted(shares) and shares[-1] >= 95


class Notebook:
    """Stands in for IPython inside a notebook's kernel."""

    def __init__(self, monkeypatch, kernel=True):
        self.shown: list[str] = []
        shell = SimpleNamespace(kernel=object()) if kernel else SimpleNamespace()
        self.HTML = str
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        monkeypatch.setitem(sys.modules, "IPython.display", self)

    def display(self, html, display_id):
        assert display_id is True
        self.shown.append(html)
        return SimpleNamespace(update=self.shown.append)


def test_a_bar_in_a_notebook(monkeypatch, capsys):
    clock, notebook = Clock(monkeypatch), Notebook(monkeypatch)
    with progress("effects of <b>", 1000, True, done=200) as tick:
        clock.now = 0.1
        tick(100)  # too early for a change
        clock.now = 10
        tick(300)
        assert len(notebook.shown) == 2
    first, second, last = notebook.shown
    assert 'value="0.2000"' in first and 'value="0.6000"' in second and last == ""  # it goes when the work ends
    assert "effects of &lt;b&gt;: 60%, 10 s left" in second
    assert capsys.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), progress("work", 10, True):
        _ = 1 / 0
    assert notebook.shown[-1] == ""


def test_no_kernel_no_bar(monkeypatch):
    notebook = Notebook(monkeypatch, kernel=False)
    with progress("work", 10, True) as tick:
        tick(10)
    monkeypatch.setitem(sys.modules, "IPython", None)
    with progress("work", 10, True) as tick:
        tick(10)
    assert notebook.shown == []


def test_a_real_run_in_a_notebook(tiny, task_of, monkeypatch):
    monkeypatch.setattr(module, "_CELL_EVERY", 0.0)
    notebook = Notebook(monkeypatch)
    vc.exact(tiny("llama"), task_of(6), units="neurons", rows=10)
    shares = [float(found[1]) for html in notebook.shown if (found := re.search(r'value="([\d.]+)"', html))]
    assert len(shares) > 3 and shares == sorted(shares) and shares[-1] >= 0.95
