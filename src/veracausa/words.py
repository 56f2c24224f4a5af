"""Numbers as words of a sentence: a true minus sign, effects with their standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def number_of(value: float, digits: int = 3) -> str:
    """+0.257 or −0.257."""
    return f"{value:+.{digits}f}".replace("-", "−")


def share(mean: float, error: float, digits: int = 3) -> str:
    """−0.257 ± 0.012; without the standard error where there is none."""
    return number_of(mean, digits) + (f" ± {error:.{digits}f}" if math.isfinite(error) else "")


def counted(n: int, what: str) -> str:
    """1 pair, 16 pairs."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def sentence(text: str) -> str:
    """A text with a large first letter and a full stop, as cautions and notes stand among sentences."""
    return f"{text[:1].upper()}{text[1:]}."


def listed(parts: Sequence[str]) -> str:
    """a, b and c."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


MINUS = "−"


def signed(value: float, digits: int = 3) -> str:
    """−0.257; an en dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:+.{digits}f}".replace("-", MINUS)
    return text if float(f"{value:.{digits}f}") else text[1:]


def plain(value: float, digits: int = 3) -> str:
    """0.955 or −0.044: a sign only where it is negative."""
    return signed(value, digits).removeprefix("+")


def whole(value: float) -> str:
    """12,345."""
    return f"{round(value):,}" if math.isfinite(value) else "–"


def p_value(p: float) -> str:
    """How a p value is written: p = 0.030, p < 0.001."""
    if not math.isfinite(p):
        return "no p value"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def joined(parts: Sequence[str]) -> str:
    """a, b and c."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}" if parts else "none"


def settings_in_words(settings: dict[str, Any]) -> str:
    """Settings on one line, without hashes and what is not set."""
    shown = {key: value for key, value in settings.items() if value not in (None, "") and not key.endswith("_digest")}
    return ", ".join(f"{key} {value}" for key, value in shown.items())
