"""The libraries that draw charts in a page, as one script that holds their licences, too; and other assets."""

from __future__ import annotations

import re
from importlib.resources import files

import vl_convert

from veracausa.report.charts.figures import vegalite_version


def library() -> str:
    """The libraries that draw charts, with their licences, as a script that may stand inside a <script> element."""
    code: str = vl_convert.javascript_bundle(vl_version=vegalite_version())  # type: ignore[call-arg]
    return f"{licences()}{code}".replace("</script", "<\\/script").replace("<!--", "<\\!--")


def licences() -> str:
    """Copyright notices and licences of these libraries, as a comment of a script.

    vl-convert leaves them out of the code that it gives; `scripts/collect_licences.py` wrote them.
    """
    return f"/*!\n{asset('licences.txt')}*/\n"


def flush(text: str) -> str:
    """A template, script or style without the spaces that its lines begin with: a page is a fiftieth smaller for it.

    >>> flush("nav{\\n  color:red\\n}")
    'nav{\\ncolor:red\\n}'
    """
    return re.sub(r"^ +", "", text, flags=re.MULTILINE)


def asset(name: str) -> str:
    """A text of report/assets."""
    return (files("veracausa.report") / "assets" / name).read_text(encoding="utf-8")
