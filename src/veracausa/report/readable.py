"""Text as it can be drawn and shown, whatever a name, a prompt or a token holds.

The drawing library ends the whole process (SIGABRT, which nothing can catch) where a text holds a character that XML
does not allow: control characters, U+FFFE, U+FFFF; it and every file refuse half of a surrogate pair. So all that is
drawn goes through `drawable`, and all text of a page through `readable`: control characters become their signs (␀, ␛),
whatever else cannot stand in a file, or would turn the writing direction of what comes after it, becomes �.
"""

from __future__ import annotations

import re
from typing import Any

#: Longest title, and longest text in the data of a chart, in characters.
LONGEST_TITLE, LONGEST_TEXT = 240, 2000
#: Vega cuts labels that are too long, and can cut a character outside the basic plane in half: texts of so many
#: characters are drawn whole, in longer ones such a character becomes �.
_WHOLE, _ASTRAL = 10, re.compile("[\U00010000-\U0010ffff]")
_REPLACED = "\N{REPLACEMENT CHARACTER}"
#: Control characters but tab and line feed, surrogates, embeddings and overrides of direction, noncharacters.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff"
    + "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(1, 17))
    + "]"
)
#: The same written as an escape in an expression, which is evaluated only where it is drawn.
_ESCAPE = re.compile(
    r"\\\\|\\u([0-9a-fA-F]{4})|\\u\{([0-9a-fA-F]{1,8})\}|\\x([0-9a-fA-F]{2})|\\([0-7]{1,3})|\\([bfvr])"
)
#: Control characters that have an escape of one letter.
_LETTERS = {"b": 8, "f": 12, "v": 11, "r": 13}
_EXPRESSIONS = ("calculate", "filter", "expr", "test", "signal", "update", "init")
_TITLES = ("title", "subtitle")
#: Vega-Lite writes titles into expressions as they are, so a backslash would begin an escape and a line end break them.
_IN_TITLES = str.maketrans({"\\": "\N{FULLWIDTH REVERSE SOLIDUS}", "\n": "↵", "\u2028": " ", "\u2029": " "})


def readable(text: str) -> str:
    """The text with every character that cannot be shown replaced by a sign for it.

    >>> readable("a\\x1b[31mb")
    'a␛[31mb'
    """
    return _UNFIT.sub(_sign, text)


def drawable(spec: Any) -> Any:
    """A specification of a chart whose texts can all be drawn; titles and data are cut to a bearable length."""
    return _drawable(spec, "", False)


def shortened(text: str, longest: int) -> str:
    """A text of at most `longest` characters; a longer one ends in an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _drawable(part: Any, key: str, data: bool) -> Any:
    if isinstance(part, str):
        return _text(part, key, data)
    if isinstance(part, dict):
        inside = data or key in ("datasets", "data")
        below = {name: "title" if key == "title" and name == "text" else name for name in part}
        return {readable(str(name)): _drawable(value, below[name], inside) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_drawable(one, key, data) for one in part]
    return part


def _text(text: str, key: str, data: bool) -> str:
    if data:
        return shortened(_uncut(text), LONGEST_TEXT)
    if key.endswith("Expr") or key in _EXPRESSIONS:
        return readable(_ESCAPE.sub(_unescaped, text))
    return shortened(_uncut(text), LONGEST_TITLE).translate(_IN_TITLES) if key in _TITLES else readable(text)


def _uncut(text: str) -> str:
    """A readable text in which nothing can be cut in half."""
    text = readable(text)
    return text if len(text) <= _WHOLE else _ASTRAL.sub(_REPLACED, text)


def _sign(found: re.Match[str]) -> str:
    code = ord(found.group())
    return chr(0x2400 + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}" if code == 0x7F else _REPLACED


def _unescaped(found: re.Match[str]) -> str:
    """The sign in place of an escape that stands for an unfit character; any other escape as it is.

    Half of a surrogate pair is told from a whole one by the other half that stands beside it.
    """
    four, braced, two, octal, letter = found.groups()
    if found.group() == "\\\\":
        return found.group()
    if letter:
        return chr(0x2400 + _LETTERS[letter])
    code = int(octal, 8) if octal else int(four or braced or two, 16)
    if code > 0x10FFFF:
        return _REPLACED
    if 0xD800 <= code < 0xE000 and _is_paired(found, code):
        return found.group()
    return _UNFIT.sub(_sign, chr(code)) if _UNFIT.match(chr(code)) else found.group()


def _is_paired(found: re.Match[str], code: int) -> bool:
    if code < 0xDC00:
        return re.match(r"\\u[dD][c-fC-F]", found.string[found.end() :]) is not None
    return re.search(r"\\u[dD][89abAB][0-9a-fA-F]{2}$", found.string[: found.start()]) is not None
