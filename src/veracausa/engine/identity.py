"""Which model is this, right now? Everything that its numbers depend on, as a few short hashes.

`Model.identity` is made anew whenever it is asked for, from the model as it then is:

    3f0c55d1a2b94e07-c1a2b3c4d[-a5e6f7a8b][-h9c0d1e2f]

* weights: every bit of all parameters and saved buffers (`storage.digests`), 16 digits;
* `c`, configuration: all keys of the configuration but a few that change no number (`_NO_NUMBER`), so an unknown key
  counts; every module's class and plain attributes (`scaling`, `eps`, `sliding_window`, …), which is what a forward
  reads, whether or not the configuration still says the same; buffers and tensors that are not saved (`inv_freq`);
* `a`, adapters, if there are any: which are active, merged or switched off, their scales (their weights are weights);
* `h`, hooks, if there are any: the code, constants, defaults and closed-over numbers of hooks and replaced forwards.

Device, attention implementation, training mode and `requires_grad` change no number here, and are left out. So is
what a module only remembers of its last run (`_of_last_run`). Nothing depends on the process, so that a killed
computation finds its pieces again. What no hash can see, such as a class whose method was replaced, or what a hook
looks up in a list, is found by comparing the model's behaviour: scores hold the metric of both runs of every pair, and
pieces on disk are given out only where the bare model still gives it (`storage.origin`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy.packed import SWITCH, require_unpacked
from veracausa.engine.before import STATES
from veracausa.engine.guard import alone
from veracausa.errors import UnitError
from veracausa.placed import ADDED, replaced
from veracausa.storage.digests import Read, tensor_digest, weights_digest

if TYPE_CHECKING:
    from veracausa.model import Model

#: Keys of a configuration that change no number, or that the weights say already.
_NO_NUMBER = frozenset(
    {
        *("architectures", "attn_implementation", "chunk_size_feed_forward", "dtype", "experts_implementation"),
        *("gradient_checkpointing", "id2label", "initializer_range", "label2id", "name_or_path", "output_attentions"),
        *("output_hidden_states", "problem_type", "return_dict", "tokenizer_class", "torch_dtype", "torchscript"),
        *("transformers_version", "use_cache"),
        *(f"{name}_token_id" for name in ("bos", "eos", "pad", "sep", "unk")),
    }
)
#: Attributes of modules that change no number.
_NO_BEHAVIOUR = frozenset(vars(nn.Module())) | {
    *("_attn_implementation", "_is_hf_initialized", "all_tied_weights_keys", "gradient_checkpointing"),
    *("kernel_config", "loss_type", "name_or_path"),
    *(SWITCH, "compute_type_is_set"),  # of bitsandbytes
    *ADDED,
}
_HOOKS = (
    ("before", "_forward_pre_hooks"),
    ("after", "_forward_hooks"),
    ("gradient before", "_backward_pre_hooks"),
    ("gradient after", "_backward_hooks"),
)
#: Libraries whose functions are known by their name.
_LIBRARIES = ("torch", "transformers", "accelerate", "builtins", "math", "numpy")
_PARTS = {"c": "configuration", "a": "adapters", "h": "hooks"}
#: How deep callables and objects are followed from a hook.
_DEPTH = 4


def identity(lm: Model) -> str:
    """See `Model.identity`; waits while another thread's call has the model, whose hooks are not the user's.

    Within one call (a study, a discovery) weights that nobody has written to are read once.
    """
    with alone(lm.decoder) as loan:
        return identity_of(lm.hf, None if loan.before is None else loan.digests)


def identity_of(hf: nn.Module, known: Read | None = None) -> str:
    """The identity of a Hugging Face model as it is now; see the module. `known`: weights that were read before.

    >>> identity_of(lm.hf) == lm.identity
    True
    """
    require_unpacked(hf)
    configuration: list[Any] = [_configuration(config) for config in _configs(hf)]
    adapters: list[Any] = []
    told = _Teller({module: name for name, module in hf.named_modules()})
    hooks: list[Any] = list(_global_hooks(told))
    for name, module in hf.named_modules():
        said = [name, _name(type(module)), _attributes(module, told)]
        configuration.append(said[:2])
        if any(said[2]):
            (adapters if _of_adapter(module) else configuration).append(said)
        hooks += [[name, *one] for one in _hooks(module, told)]
    parts = [weights_digest(hf, known), f"c{_short(configuration)}"]
    parts += [f"a{_short(adapters)}"] * bool(adapters) + [f"h{_short(hooks)}"] * bool(hooks)
    return "-".join(parts)


def difference(one: str, other: str) -> str:
    """In what two identities differ, in words: "weights", "configuration and hooks"; "" where they do not."""
    first, second = _split(one), _split(other)
    named = [name for name in ("weights", *_PARTS.values()) if first.get(name) != second.get(name)]
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]])) if named else ""


def require_same_configuration(one: Mapping[str, Any], other: Mapping[str, Any], part: str, of: str, verb: str) -> None:
    """Parts of one name are the same in two models, by their headers in results.

    Raises:
        UnitError: their configurations differ; names the `part` (which is a unit or an edge `of` one of them), and what
            to call where it is the same nevertheless: `verb`.
    """
    if "configuration" in difference(one["identity"], other["identity"]):
        raise UnitError(
            f"The models have other configurations ({one['source']} and {other['source']}), so that {part} need not be "
            f"the {of} of that name in the other. If it is, as in a model and the same one tuned, say so: "
            f"{verb}(a, b, corresponding=True), or --corresponding."
        )


def _split(identity: str) -> dict[str, str]:
    weights, *rest = identity.split("-")
    return {"weights": weights} | {_PARTS.get(part[:1], part): part for part in rest}


def _short(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=_name).encode()).hexdigest()[:8]


def _name(thing: Any) -> str:
    """A class, function or other object by its full name, without an address."""
    if isinstance(thing, torch.dtype | torch.Size):
        return str(thing)
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(named, '__module__', '')}.{named.__qualname__}"


def _configs(hf: nn.Module) -> list[Any]:
    """The model's configuration, and those of its modules that are objects of their own."""
    found = [vars(module).get("config") for module in hf.modules()]
    return list({id(config): config for config in found if hasattr(config, "to_dict")}.values())


def _configuration(config: Any) -> Any:
    return _numbers(config.to_dict())


def _numbers(value: Any) -> Any:
    """A configuration without what changes no number; keys as text, as JSON keeps them."""
    if isinstance(value, dict):
        kept = {str(key): item for key, item in value.items()}
        return {k: _numbers(v) for k, v in kept.items() if k not in _NO_NUMBER and not k.startswith("_")}
    if isinstance(value, list | tuple):
        return [_numbers(item) for item in value]
    return value


def _of_adapter(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "peft"


def _attributes(module: nn.Module, told: _Teller) -> tuple[dict[str, Any], dict[str, str]]:
    """What a module's forward may read beside its weights: plain attributes; tensors that are not saved."""
    from transformers import PreTrainedModel

    plain: dict[str, Any] = {}
    unsaved = {name: module._buffers[name] for name in module._non_persistent_buffers_set if name in module._buffers}
    housekeeping = isinstance(module, PreTrainedModel)
    for name, value in vars(module).items():
        if name in _NO_BEHAVIOUR or _of_last_run(module, name) or (housekeeping and name.startswith("_")):
            continue
        if isinstance(value, Tensor):
            unsaved[name] = value
        elif _plain(value):
            plain[name] = value if not isinstance(value, set | frozenset) else sorted(map(repr, value))
        elif callable(value) and not isinstance(value, nn.Module) and name != "forward":
            plain[name] = told(value)
    tensors = {
        name: f"{tuple(one.shape)} {one.dtype} {tensor_digest(one.detach()).hex()}"
        for name, one in unsaved.items()
        if one is not None and one.device.type != "meta" and not _of_last_run(module, name)
    }
    return plain, tensors


def _of_last_run(module: nn.Module, name: str) -> bool:
    """Whether an attribute is what rotary embeddings, or recurrences, remember of their last run."""
    if name in STATES or name.endswith(("max_seq_len_cached", "long_inv_freq")):
        return True
    if not name.endswith("inv_freq") or name.endswith("original_inv_freq"):
        return False
    kind: Any = getattr(module, "rope_type", None)
    if isinstance(kind, dict):
        kind = kind.get(name.removesuffix("_inv_freq"))
    return isinstance(kind, str) and ("dynamic" in kind or kind == "longrope")


def _plain(value: Any, depth: int = 3) -> bool:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
        return True
    if depth and isinstance(value, list | tuple | set | frozenset):
        return all(_plain(item, depth - 1) for item in value)
    return bool(depth) and isinstance(value, dict) and all(_plain(item, depth - 1) for item in value.values())


def _hooks(module: nn.Module, told: _Teller) -> Iterator[list[Any]]:
    """When each hook of a module runs and what it does, in their order; a forward that was replaced."""
    for when, where in _HOOKS:
        for number, hook in getattr(module, where).items():
            if not _ours(hook):
                keywords = number in getattr(module, f"{where}_with_kwargs", ())
                yield [when, keywords, told(hook)]
    forward = replaced(module, vars(module).get("forward"))
    if forward is not None and not _ours(forward):
        yield ["forward", told(forward)]


def _global_hooks(told: _Teller) -> Iterator[list[Any]]:
    """Hooks on all modules at once."""
    from torch.nn.modules import module as everywhere

    for when, where in _HOOKS:
        for hook in getattr(everywhere, f"_global{where}").values():
            if not _ours(hook):
                yield ["everywhere", when, told(hook)]


def _ours(hook: Any) -> bool:
    """Whether it is one that this library has on the model during a run."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    where = getattr(hook, "__module__", None) or type(hook).__module__
    return where.partition(".")[0] == "veracausa" or type(hook).__module__.partition(".")[0] == "veracausa"


@dataclass(frozen=True)
class _Teller:
    """Says what callables and objects would do, as far as code and values say it; never an address.

    `places`: the model's own modules, whose weights are said already.
    """

    places: dict[nn.Module, str]

    def __call__(self, thing: Any, depth: int = _DEPTH) -> Any:
        """A nested list of plain values."""
        if isinstance(thing, list | dict | set | types.ModuleType):
            return _name(type(thing))  # hooks write into containers, which would make a new model of every run
        if _plain(thing):
            return repr(sorted(map(repr, thing)) if isinstance(thing, frozenset) else thing)
        if isinstance(thing, Tensor):
            return [str(thing.dtype), list(thing.shape), tensor_digest(thing.detach()).hex()]
        if isinstance(thing, type) or not depth:
            return _name(thing)
        if isinstance(thing, functools.partial):
            return [
                "partial",
                self(thing.func, depth - 1),
                self._all(thing.args, depth),
                self._all(thing.keywords, depth),
            ]
        if isinstance(thing, types.MethodType):
            return ["method", self(thing.__func__, depth - 1), self(thing.__self__, depth - 1)]
        if isinstance(thing, types.FunctionType):
            return self._function(thing, depth)
        if isinstance(thing, nn.Module):
            return [_name(type(thing)), self.places[thing] if thing in self.places else weights_digest(thing)]
        if isinstance(thing, tuple):
            return self._all(thing, depth)
        if not hasattr(thing, "__dict__"):
            return _name(type(thing))
        call = type(thing).__dict__.get("__call__")
        call = self(call, depth - 1) if isinstance(call, types.FunctionType) else None
        return [_name(type(thing)), call, self._all(vars(thing), depth)]

    def _all(self, values: Any, depth: int) -> Any:
        if isinstance(values, dict):
            return {str(name): self(value, depth - 1) for name, value in values.items()}
        return [self(value, depth - 1) for value in values]

    def _function(self, function: types.FunctionType, depth: int) -> Any:
        """A function by its code, its defaults, what it closes over, and the plain globals that it names."""
        if (function.__module__ or "").partition(".")[0] in _LIBRARIES:
            return _name(function)
        code, known = function.__code__, function.__globals__
        around = {name: known[name] for name in sorted(_named(code)) if name in known}
        around = {name: one for name, one in around.items() if _plain(one) or isinstance(one, types.FunctionType)}
        return [
            self._code(code),
            self._all(function.__defaults__ or (), depth),
            self._all(function.__kwdefaults__ or {}, depth),
            [self._cell(cell, depth) for cell in function.__closure__ or ()],
            self._all(around, depth),
        ]

    def _code(self, code: types.CodeType) -> Any:
        """Bytecode and constants; no file, no line."""
        constants = [self._code(one) if isinstance(one, types.CodeType) else self(one) for one in code.co_consts]
        return [code.co_code.hex(), list(code.co_names), constants]

    def _cell(self, cell: types.CellType, depth: int) -> Any:
        try:
            return self(cell.cell_contents, depth - 1)
        except ValueError:  # an empty cell
            return None


def _named(code: types.CodeType) -> set[str]:
    inner = [_named(one) for one in code.co_consts if isinstance(one, types.CodeType)]
    return set(code.co_names).union(*inner)
