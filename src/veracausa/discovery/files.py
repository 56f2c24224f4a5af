"""The folder of a discovery: what was asked, finished pieces, results, and the page.

`run.json` says what was asked; everything else in the folder belongs to that, so a call that asks for something else is
refused. Pieces are written as they finish, and an interrupted call continues from them. An evaluation counts once its
`pairs.json` is there, which is written after its numbers; `report.html` is written last of all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.circuits.exchange.files import load_circuit
from veracausa.circuits.exchange.graphml import write_graphml
from veracausa.cost import Step
from veracausa.discovery.evaluation import Evaluation, read, seen_by
from veracausa.discovery.results import HELD_OUT, Discovery, stability_of
from veracausa.doors import through
from veracausa.engine.identity import difference
from veracausa.errors import FileError
from veracausa.receipts.files import load_receipt
from veracausa.scores.files import confirmed, load_scores
from veracausa.scores.scores import Scores
from veracausa.storage.files import at, csv_text, keep, make_folder, read_json, write_json, write_text
from veracausa.storage.schema import many, maybe, number, reading, record, text
from veracausa.tasks.task import Task
from veracausa.tasks.task_files import load_task

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.measurement import Measurement

_FORMAT = "veracausa-discovery-2"
RUN, PAIRS, SCORES, RECEIPT, PAGE = "run.json", "pairs.json", "scores.safetensors", "receipt.safetensors", "report.html"
BY_POSITION = "positions.safetensors"
_FINISHED = ("versions", "machine", "date", "command", "seconds")
_STEPS = ("steps", "plan")
_STEP = record(what=text, kind=text, token_layers=number(0), passes=number(0, nan=True), seconds=maybe(number(0)))
_FINISH = record(
    versions=record(), machine=text, date=text, command=text, seconds=number(0), steps=many(_STEP), plan=many(_STEP)
)


#: What may be asked of a folder beside what it was begun with: all that is there stays as it is.
ADDED = ("attack", "positions")


def claim(folder: Path, asked: dict[str, Any]) -> Path:
    """The folder, if it is new or holds a discovery that was asked for the same, or for the same but an adversary or
    positions.

    Raises:
        FileError: it holds something else, the message says what differs; or it cannot be written.
    """
    folder = make_folder(folder)
    asked = json.loads(json.dumps(asked))
    if (folder / RUN).exists():
        before = _run(folder)["asked"]
        more = {key for key in ADDED if key in asked and key not in before}
        differing = [key for key in sorted({*before, *asked} - more) if before.get(key) != asked.get(key)]
        if differing:
            told = "; ".join(_differing(key, before.get(key), asked.get(key)) for key in differing)
            raise FileError(
                f"{folder} holds a discovery that was asked for something else ({told}). Choose another folder."
            )
        return folder
    if (folder / PAGE).exists():
        raise FileError(
            f"{folder} holds the page of another command, which would be overwritten. Choose another folder."
        )
    write_json(folder / RUN, {"format": _FORMAT, "asked": asked})
    return folder


def _differing(key: str, there: Any, here: Any) -> str:
    if key == "model" and (parts := difference(str(there["identity"]), str(here["identity"]))):
        return f"{key}: it had other {parts} ({_short(there)} there, {_short(here)} here)"
    return f"{key}: {_short(there)} there, {_short(here)} here"


def place(folder: Path, name: str) -> Path:
    """Where the files of an evaluation are."""
    return folder / "evaluations" / name


def kept_scores(
    lm: Model,
    measured: Measurement,
    folder: Path | None,
    asked: dict[str, Any],
    compute: Callable[[], Scores],
    name: str = SCORES,
) -> Scores:
    """Scores, read from the file `name` of the folder if an earlier call finished them there.

    Raises:
        FileError: the file is damaged, of another model or task, or of a model that behaved otherwise.
    """
    if folder is None:
        return compute()
    path = folder / name
    if path.exists():
        return confirmed(_scores(path, asked), lm, measured, path)
    scores = compute()
    keep(lambda: scores.save(path))
    return scores


def save_discovery(found: Discovery, folder: Path) -> Path:
    """See `Discovery.save`."""
    claim(folder, found.asked)
    found.pairs.save(folder / PAIRS)
    found.scores.save(folder / SCORES)
    found.circuit.save(folder / "circuit.json")
    write_graphml(found.circuit, folder / "circuit.graphml")
    write_text(folder / "edges.csv", csv_text(found.table()))
    if found.by_position is not None:
        found.by_position.save(folder / BY_POSITION)
    if found.receipt is not None:
        found.receipt.save(folder / RECEIPT)
        write_text(folder / "receipt.txt", f"{found.receipt}\n")
    for evaluation in (found.evaluation, *found.further):
        save_evaluation(evaluation, folder)
    finished = {name: getattr(found, name) for name in _FINISHED}
    finished |= {name: [step.to_dict() for step in getattr(found, name)] for name in _STEPS}
    body = {"format": _FORMAT, "asked": found.asked, "finished": finished}
    write_json(folder / RUN, body)
    return through("Discovery.page", found, folder / PAGE)


def save_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Tables of an evaluation whose numbers are there, and its pairs, which make it count."""
    own = place(folder, evaluation.name)
    evaluation.keep(own)
    write_text(own / "faithfulness.csv", csv_text(evaluation.by_pair()))
    write_text(own / "curve.csv", csv_text(evaluation.sizes()))
    write_text(own / "summary.csv", csv_text(evaluation.table()))
    if evaluation.attack is not None:
        write_text(own / "attack.csv", csv_text(evaluation.attack.table()))
    evaluation.pairs.save(own / PAIRS)


def load_discovery(folder: str | Path) -> Discovery:
    """Read a discovery that `Discovery.save` wrote; no model is needed.

    Raises:
        FileError: no such folder, no discovery, one that is not finished, or a damaged or missing file.

    >>> vc.open("out/").circuit.nodes
    """
    folder = at(folder)
    if not folder.is_dir():
        raise FileError(f"There is no folder {folder}.")
    if not (folder / RUN).is_file():
        raise FileError(f"{folder} is no discovery: it has no {RUN}. `veracausa discover … --out {folder}` makes one.")
    run = _run(folder)
    if "finished" not in run or not (folder / PAGE).exists():
        raise FileError(f"{folder} holds a discovery that is not finished. Run its discover command again to continue.")
    asked, rest = run["asked"], run["finished"]
    with reading(folder / RUN):
        _FINISH(rest)
        stability_asked = [asked[name] for name in ("edges", "how", "by", "seed")]
    task = load_task(folder / PAIRS)
    scores = _scores(folder / SCORES, asked)
    with reading(folder):
        return Discovery(
            asked=asked,
            pairs=task,
            scores=scores,
            circuit=load_circuit(folder / "circuit.json"),
            receipt=load_receipt(folder / RECEIPT) if (folder / RECEIPT).exists() else None,
            stability=stability_of(scores, *stability_asked),
            by_position=_scores(folder / BY_POSITION, asked) if asked.get("positions") else None,
            evaluation=_evaluation(folder, HELD_OUT, task),
            further=tuple(_evaluation(folder, name, task) for name in _further(folder)),
            steps=_steps(rest["steps"]),
            plan=_steps(rest["plan"]),
            **{name: rest[name] for name in _FINISHED},
        )


def _steps(rows: list[dict[str, Any]]) -> tuple[Step, ...]:
    return tuple(Step(**row) for row in rows)


def _run(folder: Path) -> dict[str, Any]:
    path = folder / RUN
    run = read_json(path, "what a discovery was asked for")
    if run.get("format") != _FORMAT or not isinstance(run.get("asked"), dict):
        raise FileError(f"{path} was not written by a discovery. Choose another folder.")
    return run


def _scores(path: Path, asked: dict[str, Any]) -> Scores:
    scores = load_scores(path)
    model, task = asked["model"]["identity"], asked["selected on"]["digest"]
    if (scores.model["identity"], scores.task["digest"]) != (model, task):
        raise FileError(
            f"{path} is of another model or of other pairs than {path.parent / RUN} says. Delete the folder."
        )
    return scores


def _evaluation(folder: Path, name: str, selected: Task) -> Evaluation:
    own = place(folder, name)
    task = load_task(own / PAIRS)
    return read(own, name, task, seen_by(task, selected))


def _further(folder: Path) -> list[str]:
    """Finished evaluations beside the discovery's own, the oldest first."""
    found = [path for path in folder.glob(f"evaluations/*/{PAIRS}") if path.parent.name != HELD_OUT]
    return [path.parent.name for path in sorted(found, key=lambda path: (path.stat().st_mtime, path.parent.name))]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("description") or value.get("source") or value)
    return repr(value)
