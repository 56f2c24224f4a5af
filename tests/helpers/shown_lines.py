"""When a line that is printed is the one that a page shows.

Two things may differ, since a page is written on one machine and tested on others: the last digit of a number with a
decimal point, by one (float32 sums are taken in another order on another processor), and times ("3.1 s"). Whole
numbers, names and words are exactly what is printed.
"""

import re
from decimal import Decimal

#: A time, or a number with a decimal point that is no part of a name or a version; its sign belongs to it.
LOOSE = re.compile(r"(?P<time>(?<![\w.])\d[\d,]*(?:\.\d+)?(?= s\b))|(?<![\w.])[-+−]?\d[\d,]*\.\d+(?![\w.]*\w)")


def parts(line: str) -> tuple[list[str], list[re.Match]]:
    """What must be the same, and the numbers between."""
    found = list(LOOSE.finditer(line))
    ends = [0, *(match.end() for match in found)]
    starts = [*(match.start() for match in found), len(line)]
    return [line[a:b] for a, b in zip(ends, starts, strict=True)], found


def same(shown: str, printed: str) -> bool:
    """Whether a printed line is the one that is shown."""
    (words, numbers), (others, found) = parts(shown.rstrip()), parts(printed.rstrip())
    return words == others and all(map(near, numbers, found))


def near(shown: re.Match, printed: re.Match) -> bool:
    """Two times, or two numbers with as many decimals whose last digits differ by one at most."""
    if shown["time"] or printed["time"]:
        return bool(shown["time"] and printed["time"])
    one, other = (Decimal(match[0].replace(",", "").replace("−", "-")) for match in (shown, printed))
    exponent = one.as_tuple().exponent
    return exponent == other.as_tuple().exponent and abs(one - other) <= Decimal(1).scaleb(int(exponent))
