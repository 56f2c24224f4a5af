"""What the anatomy of an unknown decoder may be, read off its modules and one run of it.

A part is told by what it does, not by its name: the attention is the child of a block whose last position depends on
the others, the output projection is the linear map whose output is the module's, a norm belongs to what it is given
or gives. Names decide only where nothing else can (which of three projections are queries, keys and values). What is
proposed is judged by the contracts (`lm.check()`), and is worth nothing without them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from veracausa.anatomy.families import FAMILIES
from veracausa.errors import ArchitectureError

#: Tokens of the run that is watched.
_TOKENS = 6
#: Parts of an anatomy that are attributes of a config.
_OF_CONFIG = ("logit_scale", "logit_divisor", "logit_softcap", "clips")
#: Layouts of one module for queries, keys and values; the contracts say which it is.
_FUSED = ("fused-thirds", "fused-per-group", "fused-in-fours")


@dataclass
class _Call:
    """What a module was given and gave in the watched run."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def into(self) -> Tensor:
        """The first tensor that it was given."""
        given = (*self.args, self.kwargs.get("hidden_states"), *self.kwargs.values())
        return next(one for one in given if isinstance(one, Tensor))

    @property
    def out(self) -> Tensor:
        """What it gave, or the first thing of several."""
        found: Tensor = self.output[0] if isinstance(self.output, tuple) else self.output
        return found


@dataclass
class _Watched:
    """Modules by path, relative to one of them, with their calls."""

    calls: dict[nn.Module, _Call] = field(default_factory=dict)

    def within(self, module: nn.Module) -> dict[str, nn.Module]:
        """Path → module of all that ran inside a module."""
        return {path: one for path, one in module.named_modules() if path and one in self.calls}

    def linear(self, module: nn.Module) -> dict[str, nn.Module]:
        """The linear maps inside a module that ran."""
        return {path: one for path, one in self.within(module).items() if _dims(one) == 2}

    def norms(self, module: nn.Module) -> dict[str, nn.Module]:
        """The norms inside a module that ran: with a gain, or called so."""
        alone = {path: one for path, one in self.within(module).items() if not any(one.children())}
        return {path: one for path, one in alone.items() if _dims(one) == 1 or "Norm" in type(one).__name__}


def proposals(hf: Any) -> list[dict[str, Any]]:
    """Anatomies that an unknown Hugging Face decoder may have, as `vc.load(…, anatomy=…)` takes them; best first.

    The model is run once, on six tokens. More than one where queries, keys and values are one module, of which only the
    contracts can tell the layout.

    Raises:
        ArchitectureError: a part cannot be told; says which.

    >>> for own in vc.anatomy.proposals(hf):
    ...     print(own, vc.load(hf, tokenizer, anatomy=own).check(strict=False))
    """
    path, blocks = _blocks(hf)
    backbone_path, _, name = path.rpartition(".")
    backbone = hf.get_submodule(backbone_path) if backbone_path else hf
    watched = _watch(hf, blocks[0])
    found = {"backbone": backbone_path, "blocks": name, **_ends(hf, backbone, blocks, watched)}
    fused, parts = _parts(blocks[0], watched)
    found |= parts
    usual = vars(FAMILIES["llama"]) | ({} if found["qk_norms"] else {"qk_norms": ()})
    layouts = _FUSED if fused else ("separate",)
    factors = _factors(hf.config, blocks[0])
    every = [found | {"qkv": layout} | own for layout in layouts for own in factors]
    return [{"like": "llama"} | {part: value for part, value in one.items() if value != usual[part]} for one in every]


def _factors(config: Any, block: nn.Module) -> list[dict[str, Any]]:
    """Multipliers and caps that some known family has under a name that this config, or block, has too.

    Several where families multiply logits and divide them by a number of one name.
    """
    found: dict[str, Any] = {}
    for role, owner in (*((role, config) for role in _OF_CONFIG), ("residual_scale", block)):
        names = dict.fromkeys(getattr(anatomy, role) for anatomy in FAMILIES.values())
        name = next((one for one in names if one is not None and getattr(owner, one, None) is not None), None)
        if name is not None:
            found[role] = name
    if "logit_scale" not in found or found["logit_scale"] != found.get("logit_divisor"):
        return [found]
    return [{role: name for role, name in found.items() if role != left} for left in ("logit_scale", "logit_divisor")]


def _dims(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    return weight.ndim if isinstance(weight, Tensor) and not isinstance(module, nn.Embedding) else 0


def _blocks(hf: Any) -> tuple[str, nn.ModuleList]:
    """The list of blocks: the longest of modules of one class."""
    lists = [
        (path, one)
        for path, one in hf.named_modules()
        if isinstance(one, nn.ModuleList) and len(one) and len({type(part) for part in one}) == 1
    ]
    lists = [(path, one) for path, one in lists if any(_dims(part) == 2 for part in one.modules())]
    if not lists:
        raise ArchitectureError(f"{type(hf).__name__} has no list of blocks of one class, so no anatomy is proposed.")
    return max(lists, key=lambda one: (len(one[1]), -one[0].count(".")))


@torch.no_grad()
def _watch(hf: Any, block: nn.Module) -> _Watched:
    """One run, with the calls of all modules inside the first block and of those outside the blocks."""
    watched = _Watched()

    def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        watched.calls.setdefault(module, _Call(args, kwargs, output))

    inside = set(block.modules())
    last = [one for path, one in hf.named_modules() if not re.search(r"\.\d+(\.|$)", path)]
    handles = [one.register_forward_hook(keep, with_kwargs=True) for one in {*inside, *last}]
    size = int(hf.get_input_embeddings().weight.shape[0])
    ids = torch.arange(1, _TOKENS + 1, device=hf.get_input_embeddings().weight.device)[None] % size
    try:
        hf(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return watched


def _same(one: Any, other: Any) -> bool:
    return (
        isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and torch.equal(one, other)
    )


def _path_of(root: nn.Module, wanted: nn.Module, what: str) -> str:
    for path, one in root.named_modules():
        if one is wanted:
            return path
    raise ArchitectureError(f"The {what} of {type(root).__name__} cannot be told, so no anatomy is proposed.")


def _only(found: list[str], what: str, where: nn.Module) -> str:
    if len(found) != 1:
        said = f"several parts may be it: {', '.join(found)}" if found else "no part does what it does"
        raise ArchitectureError(
            f"The {what} of {type(where).__name__} cannot be told ({said}): no anatomy is proposed."
        )
    return found[0]


def _ends(hf: Any, backbone: nn.Module, blocks: nn.ModuleList, watched: _Watched) -> dict[str, Any]:
    """Embeddings, final norm, unembedding and position table."""
    embeddings, unembedding = hf.get_input_embeddings(), hf.get_output_embeddings()
    read = watched.calls[unembedding].into
    norms = [
        path
        for path, one in watched.norms(backbone).items()
        if one not in set(blocks.modules()) and _same(watched.calls[one].out[:, -read.shape[1] :], read)
    ]
    found: dict[str, Any] = {
        "embeddings": _path_of(backbone, embeddings, "embeddings"),
        "unembedding": _path_of(hf, unembedding, "unembedding"),
        "final_norm": _only(norms, "final norm", backbone),
    }
    width = embeddings.weight.shape[1]
    tables = {
        path: one
        for path, one in watched.within(backbone).items()
        if isinstance(one, nn.Embedding) and one is not embeddings and one.weight.shape[1] == width
    }
    if tables:
        table = _only(list(tables), "position table", backbone)
        most = int(getattr(hf.config, "max_position_embeddings", len(tables[table].weight)))
        found |= {"position_table": table, "position_offset": len(tables[table].weight) - most}
    return found


def _parts(block: nn.Module, watched: _Watched) -> tuple[bool, dict[str, Any]]:
    """All parts of a block; whether queries, keys and values are one module."""
    children = {path: one for path, one in block.named_children() if len(watched.linear(one)) > 1}
    mixing = {path: _looks_back(one, watched.calls[one]) for path, one in children.items() if one in watched.calls}
    attention = _only([path for path, yes in mixing.items() if yes], "attention", block)
    mlp = _only([path for path, yes in mixing.items() if not yes], "MLP", block)
    fused, found = _attention(attention, children[attention], watched)
    found |= _mlp(mlp, children[mlp], watched)
    return fused, found | _norms(block, children[attention], children[mlp], watched)


@torch.no_grad()
def _looks_back(module: nn.Module, call: _Call) -> bool:
    """Whether a change of all positions but the last changes what the module gives there."""
    given, moved = call.into, call.into.clone()
    moved[:, :-1] += 1
    args = tuple(moved if one is given else one for one in call.args)
    kwargs = {name: moved if one is given else one for name, one in call.kwargs.items()}
    again = module(*args, **kwargs)
    changed = again[0] if isinstance(again, tuple) else again
    return not torch.allclose(changed[:, -1], call.out[:, -1], rtol=0, atol=1e-6 * float(call.out.abs().max()))


def _attention(name: str, module: nn.Module, watched: _Watched) -> tuple[bool, dict[str, Any]]:
    call, linear = watched.calls[module], watched.linear(module)
    out = _only([path for path, one in linear.items() if _same(watched.calls[one].out, call.out)], "output", module)
    reading = [path for path, one in linear.items() if path != out and _same(watched.calls[one].into, call.into)]
    if len(reading) == 3:
        named = {kind: [one for one in reading if re.search(rf"(^|[._]){kind}", one)] for kind in "qkv"}
        order = [one[0] for one in named.values()] if all(len(one) == 1 for one in named.values()) else reading
    elif len(reading) == 1:
        order = reading * 3
    else:
        raise ArchitectureError(
            f"{type(module).__name__} has {len(reading)} linear maps that read its input, not three (queries, keys and "
            "values) or one: no anatomy is proposed."
        )
    norms = tuple(f"{name}.{path}" for path in watched.norms(module))
    gives = len(call.output) if isinstance(call.output, tuple) else 1
    found: dict[str, Any] = {kind: f"{name}.{path}" for kind, path in zip("qkv", order, strict=True)}
    found |= {"attention": name, "attention_out": f"{name}.{out}", "attention_gives": gives, "qk_norms": norms}
    return len(reading) == 1, found


def _mlp(name: str, module: nn.Module, watched: _Watched) -> dict[str, Any]:
    call, linear = watched.calls[module], watched.linear(module)
    out = _only([path for path, one in linear.items() if _same(watched.calls[one].out, call.out)], "output", module)
    reading = {path: watched.calls[one].out for path, one in linear.items() if path != out}
    acting = {
        path: watched.calls[one].into
        for path, one in watched.within(module).items()
        if not any(True for _ in one.parameters()) and not any(one.children()) and not isinstance(one, nn.Dropout)
    }
    activation = _only(list(acting), "activation function", module)
    gate = [path for path, given in reading.items() if _same(given, acting[activation])]
    others = [path for path in reading if path not in gate]
    up: str | None = None
    if others:
        up = _only(others, "branch beside the activation", module)
    fused = not gate and up is not None
    return {
        "mlp": name,
        "mlp_out": f"{name}.{out}",
        "activation": f"{name}.{activation}",
        "up": None if up is None else f"{name}.{up}",
        "up_fused": fused,
        "gives_two": isinstance(call.output, tuple),
    }


def _norms(block: nn.Module, attention: nn.Module, mlp: nn.Module, watched: _Watched) -> dict[str, Any]:
    """The norms around attention and MLP, and whether both read one stream."""
    calls, inner = watched.calls, {*attention.modules(), *mlp.modules()}
    norms = {path: calls[one] for path, one in watched.norms(block).items() if one not in inner}
    stream = calls[block].into

    def before(part: nn.Module) -> str | None:
        return next((path for path, call in norms.items() if _same(call.out, calls[part].into)), None)

    def behind(part: nn.Module) -> str | None:
        return next((path for path, call in norms.items() if _same(call.into, calls[part].out)), None)

    first, second = before(attention), before(mlp)
    read = calls[mlp].into if second is None else norms[second].into
    return {
        "attention_norm": first,
        "mlp_norm": second,
        "attention_post_norm": behind(attention),
        "mlp_post_norm": behind(mlp),
        "parallel": _same(read, stream),
    }
