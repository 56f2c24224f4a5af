"""Write src/veracausa/report/assets/licences.txt: the notices of the libraries that draw the charts of a page.

Their code comes in one piece from vl-convert, which leaves the notices out. npm has them beside the sources:

npm install --prefix out/npm --ignore-scripts vega@6.2.0 vega-lite@6.4.1 vega-embed@7.0.2
python scripts/collect_licences.py out/npm/node_modules
"""

import re
import sys
from pathlib import Path

PLACE = Path(__file__).parent.parent / "src" / "veracausa" / "report" / "assets" / "licences.txt"
#: What the three need at run time; the rest of node_modules are command lines and types.
BUNDLED = re.compile(
    r"vega(-.*)?|d3-.*|topojson-client|delaunator|robust-predicates|internmap|semver|fast-json-patch|tslib|"
    r"json-stringify-pretty-compact"
)
HEAD = "The libraries that draw the charts, and their licences.\n"
#: Lines ahead of a text that name who holds the rights, or the licence.
AHEAD = re.compile(
    r"copyright \W*(c\)|\d)|all rights reserved|(the )?(isc|mit|bsd 3-clause) license|\(the mit license\)", re.I
)


def main(modules: Path) -> None:
    #: Text of a licence → how it is written, and who holds the rights → whose it is.
    texts: dict[str, tuple[str, dict[str, list[str]]]] = {}
    for folder in sorted(modules.iterdir()):
        if not BUNDLED.fullmatch(folder.name) or folder.name == "vega-typings":
            continue
        holders, text = _parted(next(folder.glob("LICEN[CS]E*")).read_text(encoding="utf-8"))
        _, named = texts.setdefault(" ".join(text.split()).replace("'", '"'), (text, {}))
        named.setdefault(holders, []).append(folder.name)
    parts = [
        "\n".join(f"{', '.join(names)}: {holders}" for holders, names in named.items()) + f"\n\n{text}\n"
        for text, named in texts.values()
    ]
    PLACE.write_text(f"\n{'-' * 80}\n".join([HEAD, *parts]), encoding="utf-8")
    count = sum(len(names) for _, named in texts.values() for names in named.values())
    print(f"wrote {PLACE.name}: {count} libraries, {len(parts)} texts")


def _parted(licence: str) -> tuple[str, str]:
    """Who holds the rights, and the text beneath."""
    lines = licence.strip().splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip() and not AHEAD.match(line.strip()))
    holders = "; ".join(line.strip() for line in lines[:first] if re.match(r"\s*copyright", line, re.I))
    return holders or "no copyright is claimed", "\n".join(lines[first:]).rstrip()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
