"""Columns of a page read a second way, beside `column` in page.js."""

from __future__ import annotations

import base64
import struct


def unpacked(packed):
    """What the page makes of a column: a second way, for `column` in page.js."""
    if isinstance(packed, list):
        return packed
    if "repeat" in packed:
        return [packed["repeat"]] * packed["times"]
    if "words" in packed:
        return [packed["words"][place] for place in packed["at"]]
    raw, form = base64.b64decode(packed["bytes"]), packed["as"]
    if form == "five":
        codes = [int.from_bytes(raw[i : i + 3], "little") for i in range(0, len(raw), 3)]
        return [None if code % 2**17 == 2**17 - 1 else digits(code) for code in codes]
    size, kind = {"int8": (1, "b"), "int16": (2, "h"), "int32": (4, "i"), "single": (4, "f")}[form]
    found = struct.unpack(f"<{len(raw) // size}{kind}", raw)
    return [None if value != value else value for value in found]


def digits(code):
    """A number by its digits, as text."""
    return float(f"{'-' if code >> 17 & 1 else ''}{code % 2**17}e{(code >> 18) - 22}")
