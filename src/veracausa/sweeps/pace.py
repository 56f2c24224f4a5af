"""How often a sweep's folder is looked at: seldom enough that looking costs little, however many items there are."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between two looks, at least, and how many times what a look takes.
_LOOK, _TIMES = 0.5, 20


def paced(look: Callable[[], None]) -> float:
    """Look once; how many seconds to wait until the next time."""
    began = time.monotonic()
    look()
    return max(_LOOK, _TIMES * (time.monotonic() - began))
