"""Public calls refuse arguments of another type than the declared one, in words and before they do anything.

The annotations are the one source: `typed` reads them as they stand in the signature (nothing is imported or evaluated
for it), so that a new function or argument is covered by being declared. What a name means that is neither built in nor
a class at hand is not checked here.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any, Literal, TypeVar, cast, get_args, get_origin

from veracausa import choices
from veracausa.arguments import is_list, kind_and_value, shown
from veracausa.errors import CircuitError, FileError, MethodError, TaskError, UnitError, VeracausaError

Function = TypeVar("Function", bound=Callable[..., Any])

#: Class → the error that a wrong value in its place raises, and how one is made.
_MADE: dict[str, tuple[type[VeracausaError], str]] = {
    "Model": (MethodError, "vc.load(…) makes one"),
    "Task": (TaskError, "vc.task(lm, …) and vc.tasks.ioi(lm) make one"),
    "Scores": (MethodError, "vc.exact(lm, task) and vc.attribute(lm, task) make one"),
    "Units": (
        UnitError,
        "give a kind ('heads') or names (['a9.h6']), each a unit with an effect of its own; what several do at once "
        "say vc.exact(…, units=[('a9.h6', 'm10')]) and vc.behaviour.ablation_study(…, together=True)",
    ),
    "Circuit": (CircuitError, "vc.select(scores) makes one"),
    "Method": (MethodError, "vc.Method(path=…, rule=…) makes one, and a preset's name means one"),
}
#: Class of a value that is refused → where it is taken.
_TAKEN = dict.fromkeys(
    ("Own", "Added", "Noise"),
    "what you put in a unit's place yourself is taken by vc.exact and by vc.effects.direct, last_in, shapley and "
    "interactions",
)
_WORDS = {"int": "a whole number", "float": "a number", "bool": "True or False", "str": "text", "None": "None",
          "Path": "a path", "Callable": "a function", "Mapping": "a dict", "dict": "a dict",
          "Sequence": "a list", "tuple": "a list", "list": "a list"}  # fmt: skip
#: Types of `choices` → the words that they allow.
_CHOICES = {name: get_args(type_) for name, type_ in vars(choices).items() if get_origin(type_) is Literal}
#: How many words are listed.
_SAID = 8
_LARGEST = 2**63  # of the integers that torch and numpy count with


def typed(function: Function, package: str = "vc") -> Function:
    """The same function, which first compares what it is given with what it declares; `package`: where users find it.

    A method is decorated in its class, below `@classmethod`.

    Raises:
        MethodError: another type, a NaN, a whole number beyond 64 bits, a negative seed; for a `Task` TaskError, for
            units UnitError, for a `Circuit` CircuitError. A keyword that does not exist stays Python's TypeError.
    """
    signature, public = inspect.signature(function), f"{package}.{function.__qualname__}"
    declared = {p.name: p.annotation for p in signature.parameters.values() if isinstance(p.annotation, str)}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says it best
        known = getattr(inspect.unwrap(function), "__globals__", {})
        for name, value in bound.arguments.items():
            if name in declared:
                listed = list(value) if isinstance(value, Iterator) and "Sequence[" in declared[name] else value
                listed = _counted(listed, declared[name])
                require(listed, declared[name], f"{public}: {name}", known)
                _require_seed(name, listed, public)
                bound.arguments[name] = listed
        return function(*bound.args, **bound.kwargs)

    if work := getattr(function, "work", None):  # what the same call would do takes the same arguments
        vars(call)["work"] = typed(work, package)
    return cast("Function", call)


def require_fields(instance: Any, known: dict[str, Any], otherwise: type[VeracausaError] = MethodError) -> None:
    """The same for the fields of a dataclass, called in its `__post_init__` with its module's globals()."""
    for field in fields(instance):
        what = f"vc.{type(instance).__name__}: {field.name}"
        require(getattr(instance, field.name), str(field.type), what, known, otherwise)
        _require_seed(field.name, getattr(instance, field.name), f"vc.{type(instance).__name__}")


def require(
    value: Any, annotation: str, what: str, known: dict[str, Any], otherwise: type[VeracausaError] = MethodError
) -> None:
    """Raise unless a value is of the annotation's type; `known`: names that the annotation may use."""
    wanted = _parsed(annotation)
    names = [node.id for node in ast.walk(wanted) if isinstance(node, ast.Name)]
    if _is(value, wanted, known):
        if "Path" in names and isinstance(value, (str, os.PathLike)) and "\0" in str(value):
            raise FileError(f"{what} is a path, in which no null character can stand: {shown(value)}.")
        return
    error, hint = next((_MADE[name] for name in names if name in _MADE), (otherwise, ""))
    given = [type(one).__name__ for one in (value, *(value if isinstance(value, (list, tuple)) else ()))]
    hint = next((_TAKEN[name] for name in given if name in _TAKEN), hint)
    raise error(f"{what} is {_words(wanted)}, but this is {kind_and_value(value)}{f'; {hint}' if hint else ''}.")


def _require_seed(name: str, value: Any, what: str) -> None:
    if name == "seed" and value is not None and value < 0:  # numpy's generators take none
        raise MethodError(f"{what}: seed={value}: a seed is a whole number of 0 or more.")


@functools.cache
def _parsed(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _is(value: Any, wanted: ast.expr, known: dict[str, Any]) -> bool:
    """Whether a value is of a declared type."""
    if isinstance(wanted, ast.BinOp):
        return _is(value, wanted.left, known) or _is(value, wanted.right, known)
    if isinstance(wanted, ast.Constant):
        return value is None if wanted.value is None else True
    if isinstance(wanted, ast.Subscript):
        return _holds(value, wanted, known)
    if isinstance(wanted, ast.Attribute) and wanted.attr == "ndarray":
        numbers_of = getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u", "f")
        return type(value).__name__ == "ndarray" and numbers_of and not any(math.isnan(x) for x in value.flat)
    if not isinstance(wanted, ast.Name):
        return True
    if wanted.id in _BUILT_IN:
        return _BUILT_IN[wanted.id](value)
    if wanted.id in _CHOICES:
        return isinstance(value, str)  # which ones there are is said where they mean something
    found = known.get(wanted.id)
    if isinstance(found, type):
        return isinstance(value, found)
    return wanted.id not in _MADE or wanted.id in {c.__name__ for c in type(value).__mro__}


def _holds(value: Any, wanted: ast.Subscript, known: dict[str, Any]) -> bool:
    """Whether a value is a container of a declared type."""
    outer = wanted.value.id if isinstance(wanted.value, ast.Name) else ""
    if outer == "Literal":
        return isinstance(value, str)
    if outer == "Mapping":
        inner = wanted.slice.elts if isinstance(wanted.slice, ast.Tuple) else [ast.Constant(...)] * 2
        pairs = value.items() if isinstance(value, Mapping) else ()
        return isinstance(value, Mapping) and all(_is(k, inner[0], known) and _is(v, inner[1], known) for k, v in pairs)
    if outer in ("Sequence", "Iterable", "Collection", "tuple", "list"):
        inner = wanted.slice.elts if isinstance(wanted.slice, ast.Tuple) else [wanted.slice]
        if not is_list(value):
            return False
        if isinstance(inner[-1], ast.Constant) or len(inner) == 1:  # tuple[X, ...] and Sequence[X]
            return all(_is(one, inner[0], known) for one in value)
        # Another number than is wanted is told by the function, which knows what each stands for.
        return len(value) != len(inner) or all(_is(one, kind, known) for one, kind in zip(value, inner, strict=True))
    if outer == "Callable":
        return callable(value)
    return True


def _counted(value: Any, annotation: str) -> Any:
    """A whole number that stands in an array or tensor without axes as Python's own, where one is declared."""
    if isinstance(value, numbers.Integral) or getattr(value, "shape", None) != () or not is_whole(value):
        return value
    declared = any(isinstance(part, ast.Name) and part.id == "int" for part in _parts(_parsed(annotation)))
    return value.__index__() if declared else value


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of at most 64 bits; True and False are none."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return False
    try:
        return -_LARGEST <= value.__index__() < _LARGEST
    except TypeError:  # an array or tensor of several numbers, or of fractions
        return False


def _is_float(value: Any) -> bool:
    if isinstance(value, numbers.Integral):
        return is_whole(value)
    return isinstance(value, numbers.Real) and not math.isnan(value)


_BUILT_IN: dict[str, Callable[[Any], bool]] = {
    "int": is_whole,
    "float": _is_float,
    "bool": lambda value: isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"),
    "str": lambda value: isinstance(value, str),
    "Path": lambda value: isinstance(value, os.PathLike),
    "Any": lambda value: True,
}


def _words(wanted: ast.expr) -> str:
    """A declared type as a reader says it: "text, a list of text or None"."""
    words = [_word(part) for part in _parts(wanted)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _parts(wanted: ast.expr) -> list[ast.expr]:
    """The types of a union; one that is none alone."""
    return [*_parts(wanted.left), *_parts(wanted.right)] if isinstance(wanted, ast.BinOp) else [wanted]


def _word(wanted: ast.expr) -> str:
    if isinstance(wanted, ast.Subscript):
        outer = _WORDS.get(ast.unparse(wanted.value), ast.unparse(wanted.value))
        inner = wanted.slice.elts[0] if isinstance(wanted.slice, ast.Tuple) else wanted.slice
        if outer != "a list":
            return outer
        several = [_word(part) for part in _parts(inner)]  # of text or of lists of text
        return f"{outer} {' or '.join(f'of {one}'.replace('of a list', 'of lists') for one in several)}"
    name = ast.unparse(wanted)
    if name in _CHOICES:
        return f"one of {', '.join(_CHOICES[name])}" if len(_CHOICES[name]) <= _SAID else "text"
    return _WORDS.get(name, f"a {name}" if name in _MADE else "an array of numbers" if "ndarray" in name else name)
