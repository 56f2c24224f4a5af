"""Metrics that are functions of the user's: what they are given, what they must return, and how two are told apart."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import sysconfig
import types
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from veracausa.arguments import is_list, kind_and_value
from veracausa.errors import MethodError, NumericsError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

#: What a function may ask for beside the logits, by the name of its parameter.
WANTED = {
    "pair": "number of each row's pair in the task as it was made, int64 [rows]",
    "clean": "log-probabilities of the clean run of each row's pair, shaped like the logits",
}
#: Ends the name of a metric that is a function.
MARK = "()"
#: Of one process: what a function depends on that cannot be written down is not known in another.
_PROCESS = uuid.uuid4().hex
#: Such things, held so that nothing else gets their place in memory, by which they are told apart.
_KEPT: dict[int, Any] = {}
#: Where functions lie that are known by their names.
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
#: Errors of a function that are told as the metric's.
_ITS_OWN = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    ZeroDivisionError,
    AssertionError,
)


@dataclass(frozen=True, eq=False)
class OwnMetric:
    """A function of logits as a metric, higher = more of the behaviour.

    It is called with the logits where the metric is read, [rows, vocabulary], or [rows, positions, vocabulary] where a
    pair is read at several, in float32 at least; and with what it asks for by name (`WANTED`). It returns one number a
    row, from that row alone.

    >>> OwnMetric(lambda logits: logits[:, 262] - logits.logsumexp(-1))
    """

    function: Callable[..., Any]
    vocabulary = True
    needs_incorrect = False
    answered = False

    def __post_init__(self) -> None:
        parameters = [p for p in _parameters(self.function) if p.default is p.empty]
        asked = [p.name for p in parameters[1:]]
        if not parameters or (unknown := [name for name in asked if name not in WANTED]):
            known = "; ".join(f"{name}: {what}" for name, what in WANTED.items())
            wrong = f"asks for {', '.join(map(repr, unknown))}" if parameters else "takes nothing"
            raise MethodError(
                f"The metric {self.name} {wrong}. It is called with the logits first, and with what it asks for by "
                f"name ({known}): lambda logits: …, or lambda logits, pair: …"
            )

    @property
    def name(self) -> str:
        """What headers call it."""
        return name_of(self.function)

    @property
    def asks(self) -> tuple[str, ...]:
        """What it is given beside the logits."""
        own = [p.name for p in _parameters(self.function)]
        return tuple(name for name in own[1:] if name in WANTED)

    @property
    def compared(self) -> bool:
        """Whether it is given the clean run's log-probabilities."""
        return "clean" in self.asks

    def of_rows(
        self,
        logits: Float[Tensor, "rows places vocabulary"],
        read: Bool[Tensor, "rows places"],
        pair: Int[Tensor, " rows"],
        clean: Float[Tensor, "rows places vocabulary"] | None = None,
    ) -> Float[Tensor, " rows"]:
        """M of every row; rows that are read at as many places are given to the function together.

        Raises:
            MethodError: it fails, returns another shape, or cannot be differentiated where a gradient is asked for.
            NumericsError: it returns NaN or infinity.
        """
        import torch

        exact = torch.promote_types(logits.dtype, torch.float32)
        counts = read.sum(1)
        found = torch.zeros(len(logits), dtype=exact, device=logits.device)
        for count in counts.unique().tolist():
            rows = torch.nonzero(counts == count).flatten()
            given = {"pair": pair[rows], "clean": None if clean is None else clean[rows, :count].to(exact)}
            own = {name: given[name] for name in self.asks}
            if count == 1 and self.compared:
                own["clean"] = own["clean"][:, 0]  # type: ignore[index]
            seen = logits[rows, :count].to(exact)
            value = self._called(seen[:, 0] if count == 1 else seen, own)
            found = found.index_put((rows,), value.to(exact))
        return found

    def _called(self, logits: Tensor, own: Mapping[str, Any]) -> Tensor:
        import torch

        try:
            value = self.function(logits, **own)
        except _ITS_OWN as error:
            if isinstance(error, RuntimeError) and "memory" in str(error).lower():
                raise  # of the machine, not of the function: a smaller batch may fit
            raise MethodError(
                f"The metric {self.name} failed on logits of shape {_shape(logits)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(value, torch.Tensor) or value.shape != logits.shape[:1]:
            shape = f"a tensor of shape {_shape(value)}" if isinstance(value, torch.Tensor) else kind_and_value(value)
            raise MethodError(
                f"The metric {self.name} returned {shape} for logits of shape {_shape(logits)}. It returns one number "
                f"for each of the {len(logits)} rows, of shape ({len(logits)},): sum over the last dimension, dim=-1."
            )
        if value.is_complex():
            raise MethodError(f"The metric {self.name} returned complex numbers; return real ones, such as value.real.")
        if logits.requires_grad and torch.is_grad_enabled() and not value.requires_grad:
            raise MethodError(
                f"The metric {self.name} cannot be differentiated: what it returns does not depend on the logits by "
                "operations that have a gradient (argmax, comparisons, .detach(), .item() and numpy have none). This "
                "method needs gradients; vc.exact does not."
            )
        if not torch.isfinite(value).all():
            raise NumericsError(
                f"The metric {self.name} returned NaN or infinity. Logits can be −inf or large: use log_softmax and "
                "logsumexp instead of logs and exponentials of your own."
            )
        return value


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called in headers: surprise(), lambda()."""
    inner = function.func if isinstance(function, functools.partial) else function
    return getattr(inner, "__name__", type(inner).__name__).replace("<lambda>", "lambda") + MARK


def is_function(name: str) -> bool:
    """Whether a metric of that name is a function."""
    return name.endswith(MARK)


def digest_of(function: Callable[..., Any]) -> str:
    """A hash of what a function does: its code and all that it uses, so that another function's numbers aren't taken.

    What cannot be written down (an object of a class, a module's state) stands for itself in this process only: then
    nothing that was computed in another is continued.
    """
    found = hashlib.sha256()
    for part in _written(function, {}):
        found.update(part.encode() + b"\0")
    return found.hexdigest()


def _written(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """What a value is, in pieces of text. `seen`: by their places in memory, which nothing else may get meanwhile."""
    import numpy as np
    import torch

    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        yield f"{type(value).__name__} {value!r}"
    elif id(value) in seen:
        yield f"seen {list(seen).index(id(value))}"
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        array = value.detach().cpu().contiguous() if isinstance(value, torch.Tensor) else np.ascontiguousarray(value)
        raw = array.flatten().view(torch.uint8).numpy() if isinstance(array, torch.Tensor) else array
        yield f"array {array.dtype} {tuple(array.shape)} {hashlib.sha256(raw.tobytes()).hexdigest()}"
    elif isinstance(value, types.ModuleType):
        yield f"module {value.__name__}"
    elif isinstance(value, types.BuiltinFunctionType) or (isinstance(value, type) and _installed(value.__module__)):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
    else:
        seen[id(value)] = value
        yield from _composed(value, seen)


def _composed(value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """The same of what has parts."""
    parts: list[Any]
    if isinstance(value, types.FunctionType) and value.__code__.co_filename.startswith(_INSTALLED):
        yield f"{value.__module__}.{value.__qualname__}"
        return
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
        names = sorted(_names(value.__code__))
        used = {name: value.__globals__[name] for name in names if name in value.__globals__}
        inside = [_used_of(one, names, [one]) for one in (*used.values(), *cells) if isinstance(one, types.ModuleType)]
        parts = [value.__code__, value.__defaults__, value.__kwdefaults__, cells, used, inside, vars(value)]
    elif isinstance(value, types.CodeType):
        parts = [value.co_code, list(value.co_consts), list(value.co_names)]
    elif isinstance(value, functools.partial):
        parts = [value.func, value.args, value.keywords]
    elif isinstance(value, type):
        hidden = (types.MemberDescriptorType, types.GetSetDescriptorType)
        own = {k: v for k, v in vars(value).items() if k == "__call__" or not (k.startswith("__") or k == "_abc_impl")}
        own = {k: v for k, v in own.items() if not isinstance(v, hidden)}
        parts = [value.__module__, value.__qualname__, own, value.__bases__]
    elif isinstance(value, (staticmethod, classmethod)):
        parts = [value.__func__]
    elif isinstance(value, property):
        parts = [value.fget]
    elif isinstance(value, types.MethodType):
        parts = [value.__func__, value.__self__]
    elif isinstance(value, Mapping):
        parts = [type(value), *(part for pair in value.items() for part in pair)]
    elif isinstance(value, (set, frozenset)):
        parts = sorted(value, key=repr)
    elif is_list(value):
        parts = [type(value), *value]
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [type(value), *(getattr(value, field.name) for field in fields(value))]
    else:
        _KEPT[id(value)] = value
        yield f"{type(value).__qualname__} of {_PROCESS} {id(value)}"
        return
    yield f"{type(value).__name__} {len(parts)}"
    for part in parts:
        yield from _written(part, seen)


def _names(code: types.CodeType) -> set[str]:
    """Names that code and the functions inside it take from their module."""
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _used_of(module: types.ModuleType, names: list[str], behind: list[Any]) -> dict[str, Any]:
    """What code that uses those names can take from a module of the user's, and from the modules in it."""
    if _installed(module.__name__):
        return {}
    used = {name: vars(module)[name] for name in names if name in vars(module)}
    inner = [one for one in used.values() if isinstance(one, types.ModuleType) and one not in behind]
    return used | {f"in {one.__name__}": _used_of(one, names, [*behind, one]) for one in inner}


def _installed(module: str) -> bool:
    """Whether a module is not the user's own."""
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return module.partition(".")[0] in sys.stdlib_module_names or file.startswith(_INSTALLED)


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Parameters that can be given; of a function that hides them, one for the logits."""
    try:
        found = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [inspect.Parameter("logits", inspect.Parameter.POSITIONAL_ONLY)]
    return [p for p in found if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
