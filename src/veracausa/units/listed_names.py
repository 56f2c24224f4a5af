"""Names of units in one text, with commas between them."""

from __future__ import annotations

import re


def names_in(text: str) -> list[str]:
    """Names with commas between them; a comma within a name is its own: a9.h6<pattern>@12,5, m5.down[4,17].

    >>> names_in("a9.h6<pattern>@end,subject,m3")
    ['a9.h6<pattern>@end,subject', 'm3']
    """
    names: list[str] = []
    for part in text.split(","):
        last = names[-1].rpartition("+")[2] if names else ""
        cell = "<pattern>@" in last and "," not in last and not re.match(r"[amr][0-9]|.*->", part)
        if cell or ("[" in last and "]" not in last):
            names[-1] += f",{part}"
        else:
            names.append(part)
    return names
