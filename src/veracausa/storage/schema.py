"""What the header and the tensors of a file must be, before a result is made from them.

A check takes a value and returns it, or raises ValueError with what is wrong. Checks of parts make checks of wholes:

    HEADER = record(method=text, cost=cost, pairs=many(whole()), until=maybe(record(missed=whole())))

Whatever a loader raises inside `reading(path)` becomes a `FileError` that names the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veracausa.cost import Cost
from veracausa.errors import FileError, VeracausaError

if TYPE_CHECKING:
    from torch import Tensor

Check = Callable[[Any], Any]

#: Integers beyond this are not exact in every program that reads JSON.
_LARGEST = 2**53
#: How deep lists and objects of settings may lie in each other.
_DEEPEST = 16


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn everything that is wrong with a file's content into a FileError that names it."""
    try:
        yield
    except FileError:
        raise
    except KeyError as error:
        raise FileError(f"{path} lacks {error}: it was not written by this version of veracausa.") from error
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError, VeracausaError) as error:
        raise FileError(f"{path} does not hold together ({error}): it was not written by veracausa.") from error


def text(value: Any) -> str:
    """A string."""
    return _of(str, value, "text")


def flag(value: Any) -> bool:
    """True or false."""
    return _of(bool, value, "true or false")


def _of(kind: type, value: Any, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{_shown(value)} is not {what}")
    return value


def whole(low: int = 0, high: int = _LARGEST) -> Check:
    """An integer from `low` to `high`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{_shown(value)} is no integer from {low} to {high}")
        return value

    return check


def number(low: float = -math.inf, high: float = math.inf, *, nan: bool = False) -> Check:
    """A finite number from `low` to `high`; with `nan`, NaN is allowed."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
            raise ValueError(f"{_shown(value)} is no finite number")
        if not (low <= value <= high or (nan and math.isnan(value))):
            raise ValueError(f"{_shown(value)} is no number from {low:g} to {high:g}")
        return float(value)

    return check


def one_of(*known: Any) -> Check:
    """One of a few values."""

    def check(value: Any) -> Any:
        if not isinstance(value, str | int | None) or value not in known:
            raise ValueError(f"{_shown(value)} is none of {', '.join(map(repr, known))}")
        return value

    return check


def maybe(check: Check) -> Check:
    """None, or what `check` takes."""
    return lambda value: None if value is None else check(value)


def many(check: Check, length: int | None = None, *, least: int = 0) -> Check:
    """A list of what `check` takes, as a tuple; of this length, or at least so long."""

    def check_all(values: Any) -> tuple[Any, ...]:
        _of(list | tuple, values, "a list")  # type: ignore[arg-type]
        if len(values) < least or length not in (None, len(values)):
            raise ValueError(f"a list has {len(values)} entries")
        return tuple(check(value) for value in values)

    return check_all


def mapped(check: Check) -> Check:
    """An object whose values are what `check` takes, under any names."""
    return lambda value: {text(key): check(one) for key, one in _of(dict, value, "an object").items()}


def record(**checks: Check) -> Check:
    """An object with these entries at least; others are settings, see `plain`."""

    def check(value: Any) -> dict[str, Any]:
        found: dict[str, Any] = {text(key): plain(one) for key, one in _of(dict, value, "an object").items()}
        for name, of in checks.items():
            try:
                found[name] = of(found[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return found

    return check


def plain(value: Any, depth: int = _DEEPEST) -> Any:
    """Anything that JSON can hold, with numbers of ordinary size, not nested without end."""
    if isinstance(value, dict | list | tuple):
        if not depth:
            raise ValueError("it is nested too deep")
        for one in value.values() if isinstance(value, dict) else value:
            plain(one, depth - 1)
        return value
    if isinstance(value, int | float) and abs(value) > (1e300 if isinstance(value, float) else _LARGEST):
        raise ValueError(f"{_shown(value)} is no number of ordinary size")
    return value


def _shown(value: Any) -> str:
    """A value for a message; large numbers are never written out."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "an integer of many digits"
    shown = repr(value) if not isinstance(value, dict | list) else f"a {type(value).__name__}"
    return shown if len(shown) < 60 else f"{shown[:57]}…"


def cost(value: Any) -> Cost:
    """A cost, as `Cost.to_dict` wrote it."""
    counts = record(forward=whole(), backward=whole(), full=whole(), seconds=number(0))(value)
    return Cost.from_dict(counts)


#: What every result says about its model.
MODEL = record(name=text, source=text, identity=text)
_TASK = record(name=text, description=text, digest=text, metric=text, n=whole())


def TASK(value: Any) -> dict[str, Any]:
    """What every result says about its task; `lengths` of its prompts where they are told."""
    found: dict[str, Any] = _TASK(value)
    if "lengths" in found:
        found["lengths"] = list(many(whole(), 2)(found["lengths"]))
    return found


def require_tensors(tensors: Mapping[str, Tensor], wanted: Mapping[str, str], **sizes: int) -> dict[str, int]:
    """Check tensors' types, shapes and values; returns the sizes that the names of their axes stand for.

    `wanted`: name → type and axes, such as `"float examples units"`. Types: "float" (no infinity), "finite" (nor NaN),
    "index" (int64, −1 or more), "flag" (0 or 1). An axis has one size wherever it stands; `sizes` are known already.

    Raises:
        KeyError, ValueError: a tensor is missing, or is not so.
    """
    for name, how in wanted.items():
        kind, *axes = how.split()
        tensor = tensors[name]
        shape = tuple(sizes.get(axis, size) for axis, size in zip(axes, tensor.shape, strict=False))
        if tensor.ndim != len(axes) or tuple(tensor.shape) != shape:
            expected = " × ".join(f"{sizes[axis]} {axis}" if axis in sizes else axis for axis in axes)
            raise ValueError(f"{name} is {list(tensor.shape)}, not {expected}")
        sizes |= dict(zip(axes, tensor.shape, strict=True))
        _require_values(name, kind, tensor)
    return sizes


def _require_values(name: str, kind: str, tensor: Tensor) -> None:
    import torch

    types = {"index": (torch.int64,), "flag": (torch.bool, torch.uint8)}.get(kind, (torch.float32, torch.float64))
    if tensor.dtype not in types:
        raise ValueError(f"{name} is of type {tensor.dtype}")
    wrong = {
        "float": lambda: tensor.abs() > 1e30,
        "finite": lambda: ~(tensor.abs() <= 1e30),
        "index": lambda: (tensor < -1) | (tensor > 2**40),
        "flag": lambda: tensor.to(torch.uint8) > 1,
    }[kind]()
    if bool(wrong.any()):
        raise ValueError(f"{name} holds {int(wrong.sum())} values that no {kind} has")
