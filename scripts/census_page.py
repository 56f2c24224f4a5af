"""`docs/families.md`: what the census found, as a page; and what such a page says of a type."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import transformers

if TYPE_CHECKING:
    from census import Verdict

#: What stands between these two lines of the page is written by the census.
BEGIN, END = "<!-- census -->", "<!-- end of the census -->"
_TITLES = {
    "works": "Works in full",
    "part": "Works in part",
    "refused": "Refused",
    "unbuilt": "Not tried",
    "fails": "Fails",
    "WRONG": "Wrong",
}


@dataclass(frozen=True)
class Line:
    """What a page says of one structure: `word` as in `Verdict`, its name and the reason."""

    word: str
    name: str
    why: str

    @property
    def type(self) -> str:
        """The type of transformers that it is a structure of."""
        return self.name.partition(" (")[0]


def write(path: Path, verdicts: Sequence[Verdict], every: Sequence[str] = ()) -> None:
    """Put the census between the two marks of a page; `every`: all structures in order, to keep the lines of others."""
    text = path.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    lines = [Line(one.word, str(one.type), _why(one)) for one in verdicts]
    new = {line.type for line in lines}
    kept = [line for line in lines_of(text) if line.type not in new and line.name in every]
    written = census(sorted([*kept, *lines], key=lambda line: every.index(line.name)) if kept else lines)
    path.write_text(f"{head}{BEGIN}\n\n{written}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def census(lines: Sequence[Line]) -> str:
    """The census in Markdown: a section for each outcome, a row for each reason."""
    by_word = {word: [one for one in lines if one.word == word] for word in _TITLES}
    version = transformers.__version__
    names = {word: {one.type for one in found} for word, found in by_word.items()}
    counts = f"{len(names['works'])} types work in full, {len(names['part'] - names['works'])} in part"
    parts = [f"transformers {version}: {counts}, of {len({one.type for one in lines})}.\n"]
    for word, found in by_word.items():
        if found:
            parts.append(f"## {_TITLES[word]}\n\n{_table(word, found)}")
    return "\n".join(parts)


def words(page: str) -> dict[str, str]:
    """Structure → `works`, `part`, `refused`, …, as a page has it."""
    return {line.name: line.word for line in lines_of(page)}


def lines_of(page: str) -> list[Line]:
    """What a page says of every structure."""
    found = []
    for word, title in _TITLES.items():
        section = re.search(rf"^## {title}\n(.*?)(?=^## |{END})", page, re.M | re.S)
        for names, why in re.findall(r"^\| (`.*?) \| (.*) \|$", section[1], re.M) if section else []:
            found += [Line(word, name, why) for name in re.findall(r"`([^`]+)`", names)]
    return found


def _table(word: str, lines: Iterable[Line]) -> str:
    rows: dict[str, list[str]] = defaultdict(list)
    for one in lines:
        rows[one.why].append(f"`{one.name}`")
    title = {"works": "what holds", "part": "what works, and what does not"}.get(word, "why")
    ordered = sorted(rows.items(), key=lambda row: (-len(row[1]), row[1]))
    written = [f"| {', '.join(names)} | {why} |" for why, names in ordered]
    return "\n".join([f"| types | {title} |", "|---|---|", *written, ""])


def _why(one: Verdict) -> str:
    """A verdict's reason without what is this type's own, so that types refused for one reason stand in one row."""
    text = re.sub(r"^The architecture '.*? lists them\)\. ", "", one.detail)
    text = re.sub(r"(`[\w.]+`): \w+", r"\1", text)  # a part's place without its class
    text = text.replace(str(one.type), "…")
    text = re.sub(r"\b\w+(ForCausalLM|LMHeadModel|ForConditionalGeneration)\b", "The model", text)
    return text.replace("|", "\\|").replace("\n", " ")
