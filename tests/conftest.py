"""Fixtures of all tests: tiny models of every family, the two real models, and the naive reference over whole tasks."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric, naive_units
from torch import Tensor

import veracausa as vc
from veracausa.model import Model
from veracausa.tasks.task import Task

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores already
    torch.set_num_threads(1)

#: Tests in float64 compare at 1e-9 of the gap. Rounding leaves 1e-13; wrong wiring changes the third digit or earlier.
EXACT = 1e-9


#: Families that are another one with other sizes or switches: blocks as in llama, or gpt_neox with sequential blocks.
SIBLINGS = {"mistral", "qwen2", "smollm3", "gpt_neox-sequential"}
#: Where every family is always tested: anatomy, recorded runs, exact effects against the naive reference, circuits.
EVERY_FAMILY = {
    "test_graph.py", "test_tape.py", "test_exact.py", "test_naive.py",
    "test_circuit_forward.py",
}  # fmt: skip


def pytest_collection_finish() -> None:
    """What was imported and collected, some million objects, is not looked through again for what can be freed."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave siblings of a family to `make test-all`, but for what the whole library rests on; long tests go first."""
    items.sort(key=lambda item: item.path.name != "test_docs.py")  # at the end one worker would wait for them
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec and item.path.name not in EVERY_FAMILY and callspec.params.get("family") in SIBLINGS:
            item.add_marker(pytest.mark.slow)
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if getattr(item, "callspec", None) and not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    for name, own in cases.items():
        left_out = _beyond(own, own[0].path.name in EVERY_FAMILY, name)
        if asked := own[0].get_closest_marker("cases"):
            left_out += _but(asked.args[0], [item for item in own if item not in left_out], name)
        for item in left_out:
            item.add_marker(pytest.mark.slow)


def _beyond(cases: list[pytest.Item], every_family: bool, name: str) -> list[pytest.Item]:
    """The cases of one test that `make test` leaves out: those that show no value of any parameter for the first time.

    Of a test over families × metrics × baselines every metric and baseline is run, not every pair of them. Of families
    one is run, another one from test to test, so that all are run of the suite; where `every_family`, all are. Each
    next case is the one with the most values that were not run before.
    """
    left, seen = list(cases), set[tuple[str, str]]()
    families = sorted({value for item in cases for what, value in _values(item) if what == "family"})
    if families and not every_family:
        ours = families[zlib.crc32(name.encode()) % len(families)]
        seen = {("family", family) for family in families if family != ours}
    while left:
        new = [len(_values(item) - seen) for item in left]
        if not max(new):
            break
        seen |= _values(left.pop(new.index(max(new))))
    return left


def _but(few: int, cases: list[pytest.Item], name: str) -> list[pytest.Item]:
    """All but a `few` cases of a long test, which lie apart; which these are differs from test to test."""
    first = zlib.crc32(name.encode())
    kept = {(first + i * len(cases) // few) % len(cases) for i in range(few)}
    return [item for i, item in enumerate(cases) if i not in kept]


def _values(item: pytest.Item) -> set[tuple[str, str]]:
    """Parameters of a case, each with its value."""
    return {(name, _shown(value)) for name, value in item.callspec.params.items()}  # type: ignore[attr-defined]


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"number {id(value)}"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each worker has one half of the files, and takes from the other in the end: few fixtures are made on both."""
    if config.getoption("dist") != "load":  # asked for otherwise
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(scope="module", autouse=True)
def pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """PNGs of pages take a fifth of a second each, and are drawn in tests/report; their files are empty where commands,
    studies and sweeps write pages, and where every result is saved."""
    with pytest.MonkeyPatch.context() as patch:
        if {"cli", "discovery", "studies", "sweeps", "test_results.py"} & {*request.path.parts}:
            patch.setattr("veracausa.report.charts.figures.Figure.png", lambda figure: b"")
        yield


@cache
def _shared(family: str, dtype: torch.dtype) -> Model:
    return as_model(tiny_models.make(family, seed=1, dtype=dtype), family)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Model]:
    """`tiny(family)`: a shared model that must stay as it is; with `fresh=True` or other settings, one of your own."""

    def build(family: str, *, fresh: bool = False, dtype: torch.dtype = torch.float64, **over) -> Model:
        if fresh or over:
            return as_model(tiny_models.make(family, seed=1, dtype=dtype, **over), family)
        return _shared(family, dtype)

    return build


@pytest.fixture(scope="session")
def task_of() -> Callable[..., Task]:
    """`task_of(lengths, n, seed)`: random pairs for the tiny models as a Task."""

    def build(
        lengths: int | Sequence[int] = 7, n: int = 1, seed: int = 2, metric: str = "logit_diff", name: str = "tiny"
    ) -> Task:
        made = tiny_models.pairs(tiny_models.VOCAB, n, lengths, seed)
        return Task(
            name,
            tuple(tuple(pair.clean) for pair in made),
            tuple(tuple(pair.corrupted) for pair in made),
            tuple((pair.correct,) for pair in made),
            tuple((pair.incorrect,) for pair in made),
            metric,
        )

    return build


@pytest.fixture(scope="session")
def smollm2() -> Model:
    return vc.load("smollm2-135m", device="cpu")


@pytest.fixture(scope="session")
def gemma3() -> Model:
    return vc.load("gemma3-270m", device="cpu")


@pytest.fixture(scope="session")
def published(smollm2) -> Task:
    return vc.tasks.published_pair(smollm2)


@pytest.fixture(scope="session")
def reference() -> Callable[..., Tensor]:
    """`reference(naive.exact, lm, task, units, **options)`: the naive numbers [examples, units] of a whole task.

    NaN where an example has no such position.
    """

    def compute(function, lm: Model, task: Task, units, **options) -> Tensor:
        table = naive_units(units)
        values = torch.full((len(task), len(table)), float("nan"), dtype=torch.float64)
        for i in range(len(task)):
            here = [u for u, (*_, position) in enumerate(table) if position is None or position < task.lengths[i]]
            values[i, here] = function(
                lm.hf, lm.name, task.clean[i], task.corrupted[i], naive_metric(lm, task, i),
                [table[u] for u in here], **options,
            ).detach()  # fmt: skip
        return values

    return compute


@pytest.fixture(scope="session")
def agree() -> Callable[..., None]:
    """`agree(ours, theirs, task_gap)`: equal within a share of the mean gap, NaN where NaN."""

    def check(ours: Tensor, theirs: Tensor, gap: Tensor | float, tolerance: float = EXACT) -> None:
        scale = float(torch.as_tensor(gap).abs().mean())
        assert scale > 0.05, "a gap this small makes the comparison meaningless: choose another seed"
        torch.testing.assert_close(
            ours.double(), theirs.double(), rtol=0, atol=tolerance * scale, equal_nan=True, check_device=False
        )

    return check
