"""Parts of weights by hand: the weights of the plain model changed in place, and whole runs of it.

A map is x W + b with W [inputs, outputs], wherever a family stores it; its columns are those of its module's weight
that are its own. Nothing here knows veracausa.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

_LLAMA = {**{name: f"self_attn.{name}_proj" for name in "qkvo"}, **{n: f"mlp.{n}_proj" for n in ("gate", "up", "down")}}
_NEOX = {**dict.fromkeys("qkv", "attention.query_key_value"), "o": "attention.dense",
         "up": "mlp.dense_h_to_4h", "down": "mlp.dense_4h_to_h"}  # fmt: skip
_SELF = {name: path.replace("attention.", "self_attention.") for name, path in _NEOX.items()}
#: Family → (blocks, map → module within a block, how queries, keys and values lie in one module).
MAPS = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2"), ("model.layers", _LLAMA, None)),
    "gpt2": ("transformer.h", {**dict.fromkeys("qkv", "attn.c_attn"), "o": "attn.c_proj", "up": "mlp.c_fc",
                               "down": "mlp.c_proj"}, "thirds"),
    "gpt_neox": ("gpt_neox.layers", _NEOX, "heads"),
    "bloom": ("transformer.h", _SELF, "heads"),
    "falcon": ("transformer.h", _SELF, "thirds"),
    "phi": ("model.layers", {**{n: f"self_attn.{n}_proj" for n in "qkv"}, "o": "self_attn.dense", "up": "mlp.fc1",
                             "down": "mlp.fc2"}, None),
    "phi3": ("model.layers", {**dict.fromkeys("qkv", "self_attn.qkv_proj"), "o": "self_attn.o_proj",
                              **dict.fromkeys(("gate", "up"), "mlp.gate_up_proj"), "down": "mlp.down_proj"}, "thirds"),
    "gpt_neo": ("transformer.h", {**{n: f"attn.attention.{n}_proj" for n in "qkv"}, "o": "attn.attention.out_proj",
                                  "up": "mlp.c_fc", "down": "mlp.c_proj"}, None),
    "opt": ("model.decoder.layers", {**{n: f"self_attn.{n}_proj" for n in "qkv"}, "o": "self_attn.out_proj",
                                     "up": "fc1", "down": "fc2"}, None),
}  # fmt: skip


class Map:
    """One map of one block of a plain model. `heads`, `kv`: of its attention."""

    def __init__(self, hf, family: str, layer: int, name: str, heads: int, kv: int) -> None:
        blocks, paths, fused = MAPS[family]
        self.module = hf.get_submodule(f"{blocks}.{layer}.{paths[name]}")
        self.conv = type(self.module).__name__ == "Conv1D"
        every = self._all().shape[1]
        self.columns = np.arange(every)
        if name in "qkv" and fused == "thirds":
            d = every // (heads + 2 * kv)
            at = {"q": 0, "k": heads * d, "v": (heads + kv) * d}[name]
            self.columns = self.columns[at : at + (heads if name == "q" else kv) * d]
        elif name in "qkv" and fused == "heads":
            self.columns = self.columns.reshape(heads, 3, -1)[:, "qkv".index(name)].ravel()
        elif paths.get("gate") == paths["up"] and name in ("gate", "up"):
            self.columns = np.split(self.columns, 2)[name == "up"]

    def _all(self) -> Tensor:
        return self.module.weight.data if self.conv else self.module.weight.data.T

    @property
    def weight(self) -> np.ndarray:
        """W [inputs, outputs]."""
        return self._all().numpy()[:, self.columns].copy()

    @property
    def bias(self) -> np.ndarray | None:
        return None if self.module.bias is None else self.module.bias.data.numpy()[self.columns]

    def whole(self, own: np.ndarray) -> Tensor:
        """A change of W as one of the module's stored weight."""
        found = np.zeros(tuple(self._all().shape))
        found[:, self.columns] = own
        return torch.tensor(found if self.conv else found.T)

    @contextmanager
    def without(self, part: np.ndarray) -> Iterator[None]:
        """W − part inside."""
        kept = self.module.weight.data.clone()
        try:
            self.module.weight.data -= self.whole(part).to(kept)
            yield
        finally:
            self.module.weight.data.copy_(kept)


def directions(weight: np.ndarray) -> list[np.ndarray]:
    """The singular parts of W, by falling singular value: σ v uᵀ each."""
    v, sizes, u = np.linalg.svd(weight, full_matrices=False)
    return [size * np.outer(v[:, c], u[c]) for c, size in enumerate(sizes)]


def metric(hf, pair, clean: bool = True) -> float:
    """The difference of both answers' logits at the last position of a prompt."""
    with torch.no_grad():
        return float(difference(hf, pair, clean))


def difference(hf, pair, clean: bool = True) -> Tensor:
    ids = torch.tensor([pair.clean if clean else pair.corrupted])
    logits = hf(input_ids=ids, use_cache=False).logits[0, -1]
    return logits[pair.correct] - logits[pair.incorrect]


def removed(hf, pair, own: Map, part: np.ndarray) -> float:
    """What becomes of the metric when a part is taken out of a map's weights."""
    before = metric(hf, pair)
    with own.without(part):
        return metric(hf, pair) - before


def slopes(hf, pair, own: Map, parts: Sequence[np.ndarray]) -> list[float]:
    """⟨∂M/∂W, −part⟩ of parts of a map's weights, by the gradient of the weight itself."""
    weight = own.module.weight
    asks = weight.requires_grad
    try:
        weight.requires_grad_(True)
        (gradient,) = torch.autograd.grad(difference(hf, pair), weight)
    finally:
        weight.requires_grad_(asks)
    return [-float((gradient * own.whole(part)).sum()) for part in parts]


def exchanged(hf, pair, own: Map, v: np.ndarray, u: np.ndarray, position: int | None = None) -> float:
    """The effect of giving the component v uᵀ what it is in the corrupted run: y + (a′ − a) u by a hook."""
    read: list[Tensor] = []
    columns = torch.as_tensor(own.columns)
    hook = own.module.register_forward_hook(lambda _, args, __: read.append(args[0].detach().clone()))
    before = metric(hf, pair)
    metric(hf, pair, clean=False)
    hook.remove()
    change = ((read[1] - read[0]).reshape(1, len(pair.clean), -1) @ torch.tensor(v))[..., None] * torch.tensor(u)
    if position is not None:
        change[:, [at for at in range(len(pair.clean)) if at != position]] = 0

    def put(_, __, output):
        new = output.clone()
        new[..., columns] += change.reshape(*output.shape[:-1], -1)
        return new

    hook = own.module.register_forward_hook(put)
    try:
        return metric(hf, pair) - before
    finally:
        hook.remove()


def outputs_of_head(
    hf, family: str, layer: int, heads: int, kv: int, head: int
) -> Callable[[int], tuple[Map, np.ndarray, np.ndarray]]:
    """Component c of W_V W_O of a head: (output map, the part of its weight, the constant that its output gains)."""
    values, out = (Map(hf, family, layer, name, heads, kv) for name in "vo")
    d = out.weight.shape[0] // heads
    own, group = slice(head * d, (head + 1) * d), head // (heads // kv)
    w_v, w_o = values.weight[:, group * d : (group + 1) * d], out.weight[own]
    left, sizes, right = np.linalg.svd(w_v @ w_o)
    bias = np.zeros(d) if values.bias is None else values.bias[group * d : (group + 1) * d]

    def component(c: int) -> tuple[Map, np.ndarray, np.ndarray]:
        # W_V W_O less σ l rᵀ is W_V times what is left of W_O, and the value map's bias goes through the whole of it
        part = np.zeros_like(out.weight)
        part[own] = np.linalg.pinv(w_v) @ (sizes[c] * np.outer(left[:, c], right[c]))
        return out, part, bias @ part[own]

    return component


@contextmanager
def gaining(module: nn.Module, constant: np.ndarray) -> Iterator[None]:
    """A module whose output gains a constant inside."""
    hook = module.register_forward_hook(lambda _, __, output: output + torch.tensor(constant))
    try:
        yield
    finally:
        hook.remove()
