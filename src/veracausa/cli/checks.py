"""What can be wrong with a command is found before the model is loaded: names, options, files, folders."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from veracausa.cli.options import DTYPES
from veracausa.discovery.ways import FURTHER
from veracausa.errors import FileError, MethodError, TaskError
from veracausa.suggestions import not_known
from veracausa.tasks.aligned import ALIGNED
from veracausa.tasks.columns import UNEQUAL
from veracausa.units.listed_names import names_in


def is_file(name: str) -> bool:
    """Whether a task's name is meant as a file: it has an ending or a folder, as no built-in task has."""
    path = Path(name)
    return bool(path.suffix) or len(path.parts) > 1


def anatomy_of(text: str | None) -> str | dict[str, Any] | None:
    """What `--anatomy` means for `vc.load`: a family's name, or what a .json file holds; a FileError for a bad file."""
    if text is None or not text.endswith(".json"):
        return text
    from veracausa.storage.files import read_json

    return read_json(text, 'an anatomy, such as {"like": "llama", "up": null}', sealed=False)


def columns_of(text: str | None) -> dict[str, str] | None:
    """What a pair is made of → its column, of "clean=prompt,correct=answer"; a TaskError for other text."""
    if text is None:
        return None
    parts = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and column.strip() for name, _, column in parts):
        raise TaskError(f"--columns {text}: write it as --columns clean=prompt,correct=answer.")
    if len({name.strip() for name, *_ in parts}) < len(parts):
        raise TaskError(f"--columns {text} names a part of the pair twice.")
    return {name.strip(): column.strip() for name, _, column in parts}


def require_table(name: str, columns: str | None, unequal: str, align: str | None = None) -> None:
    """Options of a file are given for a file; a TaskError otherwise."""
    if unequal not in UNEQUAL:
        raise TaskError(not_known("unequal", unequal, UNEQUAL))
    if align is not None and align not in ALIGNED:
        raise TaskError(not_known("align", align, ALIGNED))
    if not is_file(name) and (columns is not None or unequal != "refuse" or align is not None):
        raise TaskError(f"{name} is no file, so it has no columns and no pairs that do not fit. Leave --columns, "
                        "--unequal and --align out.")  # fmt: skip


def require_task(
    name: str,
    metric: str | None,
    columns: Mapping[str, str] | None = None,
    read: int | str = -1,
    paired: bool = True,
) -> None:
    """The task is a built-in one or a file that can be read, and there is such a metric; errors as in `vc.tasks`."""
    from veracausa.storage.files import at
    from veracausa.tasks.custom import PUBLISHED
    from veracausa.tasks.own_metrics import name_of
    from veracausa.tasks.reading import lacking
    from veracausa.tasks.registry import named
    from veracausa.tasks.tables import read_pairs

    called = metric_of(metric)
    if is_file(name):
        without = lacking(called if isinstance(called, str) else name_of(called), read, paired)
        read_pairs(at(name), columns, without)
    elif read != -1 or not paired:
        raise TaskError(f"{name} is no file: its prompts are paired, and read where they end. Leave --read and "
                        "--unpaired out.")  # fmt: skip
    else:
        named(name, more=(PUBLISHED,))


def metric_of(name: str | None) -> str | Callable[..., Any]:
    """A metric by its name, or a function in a file of Python: "metrics.py:surprise".

    Raises:
        MethodError: no such metric, or no such function there. FileError: no such file, or it fails.
    """
    from veracausa.tasks.metrics import metric

    path, colon, function = (name or "").rpartition(":")
    if not colon or not path.endswith(".py"):
        return "logit_diff" if name is None else metric(name).name
    return function_in(Path(path).expanduser(), function)


@functools.cache
def function_in(path: Path, name: str) -> Callable[..., Any]:
    """A function of a file of the user's own, which is run for it."""
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # by its ending it is Python's
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise FileError(f"{path} fails: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not callable(found):
        raise MethodError(f"{path} has no function {name!r} that could be the metric.")
    return cast("Callable[..., Any]", found)


def places_of(text: str) -> int | str:
    """Where the metric is read, from the command line: −1, "all", "text"."""
    try:
        return int(text)
    except ValueError:
        return text


def require_reference(path: Path | None, replacements: Collection[str]) -> None:
    """The file of a reference set can be read, and something takes its values from it; errors say what is wrong."""
    if path is None:
        return
    from veracausa.scores.estimands import REFERRING
    from veracausa.tasks.references import prompts_in

    known = (*REFERRING, "noise")  # whose size is in units of what activations vary by over the prompts
    if not set(known) & set(replacements):
        raise MethodError(f"--reference is for {', '.join(known)}, and none of them is asked for. Leave it out.")
    prompts_in(path)


def require_corruption(task: str, corruption: str | None) -> None:
    """The task can be corrupted so; a TaskError otherwise."""
    if corruption is None:
        return
    from veracausa.tasks.registry import CORRUPTIONS

    kinds = CORRUPTIONS.get(task.strip().lower().replace("_", "-"), ())
    if not kinds:
        raise TaskError(f"{task} has corrupted prompts of one kind only. --corruption is for {', '.join(CORRUPTIONS)}.")
    if corruption not in kinds:
        raise TaskError(not_known("corruption", corruption, kinds))


def require_digits(task: str, digits: int | None, metric: str | None) -> None:
    """The task has sums of so many digits, under such a metric; a TaskError otherwise."""
    if digits is None:
        return
    from veracausa.tasks.long_sums import require_long

    if task.strip().lower() != "arithmetic":
        raise TaskError(f"--digits is for arithmetic, not for {task}.")
    require_long(digits, metric or "logprob")


def require_dtype(dtype: str | None) -> None:
    """Models can be loaded in this precision; a MethodError otherwise."""
    if dtype is not None and dtype not in DTYPES:
        raise MethodError(not_known("dtype", dtype, DTYPES))


def units_of(text: str) -> str | list[str]:
    """A kind of units, or a list of names; UnitError for what is neither."""
    from veracausa.units.unit_names import require_names

    names = names_in(text)
    units = names if len(names) > 1 else text
    require_names(units)
    return units


def require_edge_method(method: str) -> None:
    """There is such a method of edges, or way of scoring them; a MethodError otherwise."""
    from veracausa.estimates.methods import resolve_method

    if method not in FURTHER:
        resolve_method(method, "", "noising", edges=True)


def require_estimate(
    method: str, units: str | list[str], metric: str | None, baseline: str | None, direction: str, nodes: int | None
) -> None:
    """There is such a method of such units, and its options go together; a MethodError otherwise."""
    from veracausa.estimates.methods import resolve_method

    if method == "mask":
        if (baseline, direction, nodes) != (None, "noising", None):
            raise MethodError(
                "method='mask' learns which units of the clean run can take their corrupted values: it has no "
                "baseline, direction or nodes. Leave them out."
            )
        return
    edges = "edges" in units if isinstance(units, str) else any("->" in name for name in units)
    if method != "ifr" or not edges:
        resolve_method(method, metric or "", direction, edges, baseline=baseline, nodes=nodes)


def require_selection(edges: int, how: str) -> None:
    """There is such a way of selecting so many edges; a MethodError otherwise."""
    from veracausa.circuits.selection.ways import HOW

    if how not in HOW:
        raise MethodError(not_known("how", how, HOW))
    if edges < 1:
        raise MethodError(f"edges={edges}: a circuit has at least one edge.")


_Number = TypeVar("_Number", int, float)


def numbers_of(text: str, kind: type[_Number], option: str, what: str, example: str) -> list[_Number]:
    """Numbers with commas between them."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise MethodError(f"--{option} {text!r} is no list of {what}. Write e.g. {example}") from None


def shares_of(text: str | None) -> list[float] | None:
    """The numbers of --sizes; None where it is not given."""
    return None if text is None else numbers_of(text, float, "sizes", "shares", "0.001,0.01,0.1,1")


def layers_of(text: str | None) -> list[int] | None:
    """The numbers of --neurons; None where it is not given."""
    return None if text is None else numbers_of(text, int, "neurons", "layers", "20,21")


def scales_of(text: str) -> list[float]:
    """The numbers of --scales."""
    return numbers_of(text, float, "scales", "numbers", "--scales=-2,2")


def several(words: str) -> list[str]:
    """Words with commas between them."""
    return [one.strip() for one in words.split(",") if one.strip()]


def span_of(text: str) -> str | list[int]:
    """What --span noises: a span by its name, or positions.

    >>> span_of("subject"), span_of("3,-1")
    ('subject', [3, -1])
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        return text


def require_folder(out: Path | None) -> None:
    """Results can be written into this folder, or it can be made; nothing is made yet.

    Raises:
        FileError: there is a file in its way, or it may not be written.
    """
    if out is None:
        return
    there = out
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise FileError(f"{out} cannot be a folder for results: {there} is a file. Choose another one.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise FileError(f"{out} cannot be a folder for results: {there} may not be written. Choose another one.")
