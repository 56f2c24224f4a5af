"""What a misspelt name was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from veracausa.arguments import shown


def closest(name: Any, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`: begun or ended by it, or nearly spelt like it; None if none is.

    >>> closest("smollm2", ["smollm2-135m", "gemma3-270m"])
    'smollm2-135m'
    """
    if not isinstance(name, str) or not name.strip():
        return None
    plain = {one.lower().replace("_", "-"): one for one in known}
    asked = name.strip().lower().replace("_", "-")
    begun = [one for one in plain if len(asked) >= 3 and (one.startswith(asked) or asked.startswith(one))]
    near = get_close_matches(asked, plain, n=1, cutoff=0.65) or begun[:1]
    return plain[near[0]] if near else None


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """A sentence to put behind "… is not known.", with its leading space; nothing where no name is like it.

    >>> did_you_mean("head", ["heads", "mlps"])
    " Did you mean 'heads'?"
    """
    found = closest(name, known)
    return "" if found is None or found == name else f" Did you mean {found!r}?"


def not_known(what: str, value: Any, known: Iterable[str]) -> str:
    """What is said of an option's value that is none of the known ones.

    >>> not_known("direction", "noisin", ["noising", "denoising"])
    "direction='noisin' is not known. Did you mean 'noising'? Known: noising, denoising."
    """
    names = list(known)
    return f"{what}={shown(value)} is not known.{did_you_mean(value, names)} Known: {', '.join(names)}."
