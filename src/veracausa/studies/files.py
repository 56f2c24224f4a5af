"""What a study's folder holds beside its page: `study.json`, and every score and finding in a file of its own.

`study.json` names these files and is written after them, so a folder that has it has all numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from veracausa.cost import Step
from veracausa.doors import through
from veracausa.errors import FileError, VersionError
from veracausa.scores.files import kind_of_units, load_scores
from veracausa.storage.files import at, read_json, write_json
from veracausa.storage.schema import MODEL, many, maybe, number, one_of, plain, reading, record, text, whole
from veracausa.studies.results import Failure, Panel, Section, Study
from veracausa.tasks.measurement import Measurement
from veracausa.tasks.task import task_content
from veracausa.tasks.task_files import task_of

STUDY, SCORES, FINDINGS = "study.json", "scores", "findings"
_FORMAT = "veracausa-study-1"
#: Fields of a study that its file holds as they are.
_PLAIN = ("title", "model", "summary", "versions", "machine", "date", "command", "seconds", "notes")
_STEP = record(
    what=text, kind=text, token_layers=number(0), passes=number(0, nan=True), seconds=maybe(number(0)), batches=whole(),
    most=maybe(number(0)),
)  # fmt: skip
_PANEL = record(kind=kind_of_units, sampled=whole(), exact=text, estimates=many(text))
_SECTION = record(
    title=text, dtype=one_of("float32", "float64"), clean=many(number(), least=1), corrupted=many(number(), least=1),
    panels=many(_PANEL), findings=many(plain),
)  # fmt: skip
_HEADER = record(
    title=text, model=MODEL, summary=many(text), versions=record(), machine=text, date=text, command=text,
    seconds=number(0), notes=many(text), steps=many(many(_STEP, 2)), sections=many(_SECTION, least=1),
)  # fmt: skip


def save_numbers(study: Study, folder: Path, names: Sequence[Sequence[str]]) -> None:
    """Write all scores and findings of a study, and what holds them together.

    `names`: for each section the names of its scores' files: of each panel the exact ones, then the estimates.
    """
    sections = [
        _section(section, folder, iter(own), f"{i}-finding")
        for i, (section, own) in enumerate(zip(study.sections, names, strict=True), 1)
    ]
    body: dict[str, Any] = {"format": _FORMAT} | {name: getattr(study, name) for name in _PLAIN}
    steps = [[step.to_dict() for step in pair] for pair in study.steps]
    write_json(folder / STUDY, body | {"steps": steps, "sections": sections})


def _section(section: Section, folder: Path, names: Iterator[str], finding: str) -> dict[str, Any]:
    panels = []
    for panel in section.panels:
        own = [next(names) for _ in range(1 + len(panel.estimates))]
        for name, scores in zip(own, (panel.exact, *panel.estimates), strict=True):
            scores.save(folder / SCORES / f"{name}.safetensors")
        panels.append({"kind": panel.kind, "sampled": panel.sampled, "exact": own[0], "estimates": own[1:]})
    found: list[Any] = []
    for i, one in enumerate(section.findings, 1):
        if isinstance(one, Failure):
            found.append(asdict(one))
        else:
            found.append(one.save(folder / FINDINGS / f"{finding}-{i}.safetensors").name)
    measured = section.measured
    return {
        "title": section.title,
        "task": task_content(section.task),
        "dtype": str(measured.clean.dtype).removeprefix("torch."),
        "clean": measured.clean.tolist(),
        **({} if measured.right is None else {"right": measured.right.tolist()}),
        "corrupted": measured.corrupted.tolist(),
        "panels": panels,
        "findings": found,
    }


def load_study(folder: str | Path) -> Study:
    """Read a study that `Study.save` wrote; no model is needed.

    Raises:
        FileError: no such folder, no study, or a damaged or missing file. A finding in the form of another version is a
            `Failure` in its place, which says so.

    >>> vc.open("out/").summary
    """
    folder = at(folder)
    path = folder / STUDY
    body = read_json(path, "a study")
    if body.get("format") != _FORMAT:
        raise FileError(f"{path} was not written by a study. Choose another folder.")
    with reading(path):
        found = _HEADER(body)
        parts: dict[str, Any] = {name: found[name] for name in _PLAIN}
        steps = tuple((Step(**plan), Step(**done)) for plan, done in found["steps"])
        return Study(
            sections=tuple(_read_section(one, folder, path) for one in found["sections"]), steps=steps, **parts
        )


def _right(told: dict[str, Any], pairs: int) -> torch.Tensor | None:
    """Whether the likeliest tokens were right answers, where the file says so."""
    if "right" not in told:
        return None
    found = torch.tensor(told["right"], dtype=torch.bool)
    if found.shape != (2, pairs):
        raise ValueError(f"{tuple(found.shape)} answers of {pairs} pairs")
    return found


def _read_section(told: dict[str, Any], folder: Path, path: Path) -> Section:
    dtype = getattr(torch, told["dtype"])
    task = task_of(told["task"], path)
    clean, corrupted = (torch.tensor(told[name], dtype=dtype) for name in ("clean", "corrupted"))
    if not len(clean) == len(corrupted) == len(task):
        raise ValueError(f"{len(clean)} metrics of {len(task)} pairs")
    return Section(
        title=told["title"],
        task=task,
        measured=Measurement(clean, corrupted, _right(told, len(task))),
        panels=tuple(_read_panel(one, folder) for one in told["panels"]),
        findings=tuple(_read_finding(one, folder) for one in told["findings"]),
    )


def _read_panel(told: dict[str, Any], folder: Path) -> Panel:
    exact, *estimates = (load_scores(_inside(folder / SCORES, name)) for name in (told["exact"], *told["estimates"]))
    if told["sampled"] > len(exact):
        raise ValueError(f"{told['sampled']} of {len(exact)} units were drawn")
    return Panel(told["kind"], exact, tuple(estimates), told["sampled"])


def _read_finding(told: Any, folder: Path) -> Any:
    if isinstance(told, dict):
        return Failure(text(told["title"]), text(told["sentence"]))
    name = text(told).removesuffix(".safetensors")
    path = _inside(folder / FINDINGS, name)
    try:
        return through("Study.finding", path)
    except VersionError as error:  # of another version: all else of the study is there
        return Failure(f"Not read: {name}", str(error))


def _inside(folder: Path, name: str) -> Path:
    """A file of a folder by its name, which leads nowhere else."""
    if not name or Path(name).name != name:
        raise ValueError(f"{name!r} is no name of a file")
    return folder / f"{name}.safetensors"
