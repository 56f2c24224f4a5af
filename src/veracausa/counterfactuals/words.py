"""Numbers as words of a sentence: a true minus sign, effects with their standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number_of(value: float, digits: int = 3) -> str:
    """+0.257 or −0.257."""
    return f"{value:+.{digits}f}".replace("-", "−")


def share(mean: float, error: float, digits: int = 3) -> str:
    """−0.257 ± 0.012; without the standard error where there is none."""
    return number_of(mean, digits) + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def counted(n: int, what: str) -> str:
    """1 pair, 16 pairs."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
