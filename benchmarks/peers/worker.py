"""What the workers of `edges_peers.py` share: they run a measurement whenever they are asked for one.

A worker is one implementation in its own interpreter. It loads the weights, runs the bare model once, names its
measurements, and then answers one line at a time, so that several implementations take turns in one run.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: What is run and timed, and what is told of its result, untimed, as JSON.
Measures = dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]


def serve(prepare: Callable[[Path, dict[str, Any]], Measures], *packages: str) -> None:
    """Prepare with the folder named on the command line, then answer the names of measurements on standard input.

    `packages`: those whose versions belong to the result.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    folder = Path(sys.argv[1])
    measures = prepare(folder, json.loads((folder / "pairs.json").read_text()))
    _, loaded = _resident(fresh=True)
    versions = [f"{package} {version(package)}" for package in packages]
    print(json.dumps({"measures": list(measures), "versions": versions}), file=answers)
    for line in sys.stdin:
        run, told = measures[line.strip()]
        _resident(fresh=True)
        began = time.perf_counter()
        found = run()
        took = time.perf_counter() - began
        peak, _ = _resident()
        print(json.dumps({"seconds": took, "gib": peak - loaded, "told": told(found)}), file=answers)
        del found


def _resident(fresh: bool = False) -> tuple[float, float]:
    """(largest, present) resident size in GiB; `fresh`: give free memory back and start the largest anew (Linux)."""
    if fresh:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, present = (int(rows[key].split()[0]) / 2**20 for key in ("VmHWM", "VmRSS"))
    return peak, present
