"""Programs and the command line in processes of their own, as users start them; without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def python(code: str, *words: str, **more: Any) -> str:
    """What a program prints; a failure with what it said if it fails. `words`: its arguments; `more`: see `started`."""
    done = started("-c", code, *words, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def shell(*words: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    """The command line with these words, finished; `more`: see `started`."""
    return started("-m", "veracausa", *map(str, words), **more)


def started(*words: str, env: Mapping[str, str] | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """An interpreter with these words, finished; `env`: variables of its own, `more`: of `subprocess.run`."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(env or {})}, **more,
    )  # fmt: skip
