"""The page's own script: modules that import each other, put after one another into one that needs nobody.

They are plain ES modules, so that tests and editors read them as they are. In the page they share one scope: imports
and the word `export` are taken out, and what two of them call alike is an error here.
"""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

#: The modules, each after those that it imports.
MODULES = (
    "dom", "packed", "address", "choosing", "scales", "plots", "graph", "ink", "drawing", "exports", "map", "finder",
    "seeker", "edges", "stage", "circuit", "apart", "panel", "marks", "instrument",
)  # fmt: skip
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class)\b)", re.MULTILINE)
_NAMED = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)


def bundle() -> str:
    """All modules as one script for <script type="module">."""
    texts = [module(name) for name in MODULES]
    twice = [
        name for name, count in Counter(name for text in texts for name in _NAMED.findall(text)).items() if count > 1
    ]
    if twice:
        raise ValueError(f"two modules of the page have {', '.join(twice)}")
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", text)) for text in texts)


def module(name: str) -> str:
    """One module as it stands in the package."""
    return (files("veracausa.report") / "instrument" / f"{name}.js").read_text(encoding="utf-8")
