"""What every benchmark needs: a clock, the machine's matrix rate, peak memory, and a table."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from datetime import date

import torch
import transformers

#: The tasks that results are about.
TASKS = ("ioi", "greater-than", "subject-verb", "gendered-pronoun", "capital-country", "hypernymy")


def seconds(run: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.perf_counter) -> float:
    """Fastest of some runs, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        began = clock()
        run()
        times.append(clock() - began)
    return min(times)


def matrix_rate(
    rows: int = 1024, inner: int = 576, outer: int = 1536, clock: Callable[[], float] = time.perf_counter
) -> float:
    """GFLOP/s of a float32 product of the shapes that a block of SmolLM2-135M has; the peak to measure against."""
    a, w = torch.randn(rows, inner), torch.randn(outer, inner)
    return 2 * rows * inner * outer / seconds(lambda: torch.nn.functional.linear(a, w), 30, clock) / 1e9


def peak_gib() -> float:
    """Largest resident size of this process so far.

    Of what Linux says of this process: `ru_maxrss` begins with the peak of the process that started it.
    """
    try:
        with open("/proc/self/status") as lines:
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def header(command: str) -> str:
    """The machine, versions, date and command, as Markdown."""
    processor = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return (
        f"`{command}` · {date.today()} · {processor}, {torch.get_num_threads()} threads · torch {torch.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}"
    )


def table(columns: list[str], rows: list[list[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)])
