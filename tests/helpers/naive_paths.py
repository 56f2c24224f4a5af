"""The naive reference of paths and backward rules: whole prompts, one at a time, straight through the model.

Like helpers/naive.py it shares no code with the library. Attention, norms and gated MLPs are written out here in the
plainest form, so that a backward rule is a `.detach()` in the right place:

* frozen norm: x / s.detach(); activation as a ratio: x · (f(x)/x).detach();
* a gradient times c: `c·v + (1 − c)·v.detach()`;
* softmax backward at temperature T: the gradient of T · softmax(s / T), which is p ⊙ (g − ⟨p, g⟩) at T.

A *site* is a tensor [n, d] of one layer: those of helpers/naive.py, and `queries`, `keys`, `values`: what the attention
sums over, behind rotation and norms, heads side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from naive import PATHS, Metric
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SITE_OF = {
    "heads": "z", "attention": "z", "neurons": "neurons", "mlps": "mlp", "residual": "resid",
    "queries": "queries", "keys": "keys", "values": "values",
}  # fmt: skip
#: Projections of queries, keys and values in a block; one fused name for gpt2 and neox.
QKV = {
    "gpt2": "attn.c_attn", "gpt_neox": "attention.query_key_value", "gpt_neox-sequential": "attention.query_key_value"
}  # fmt: skip


@dataclass
class Rule:
    """What the backward pass does otherwise (as `veracausa.engine.rule.Rule`, written anew)."""

    temperature: float = 1.0
    query_key: float = 1.0
    value: float = 1.0
    product: float = 1.0
    freeze_norms: bool = False
    linear_activations: bool = False


PLAIN = Rule()
GIM = Rule(temperature=2.0, query_key=0.25, value=0.5, product=0.5, freeze_norms=True)
RELP = Rule(product=0.5, freeze_norms=True, linear_activations=True)


@dataclass
class Trace:
    """One run: logits [n, V], and every site's tensor of the graph; `shaped` turns one (or a gradient) into [n, d]."""

    logits: Tensor
    sites: dict[str, list[Tensor]] = field(default_factory=dict)

    @staticmethod
    def shaped(tensor: Tensor) -> Tensor:
        tensor = tensor[0]
        return tensor.transpose(0, 1).flatten(1) if tensor.ndim == 3 else tensor

    def values(self, site: str, layer: int) -> Tensor:
        return self.shaped(self.sites[site][layer])


def times(value: Tensor, factor: float) -> Tensor:
    """The value, its gradient times a factor."""
    return factor * value + (1 - factor) * value.detach()


# ---- the model's parts, written out -------------------------------------------------------------------------------


def _attention(rule: Rule, keep: Callable[..., None]) -> Callable[..., tuple[Tensor, None]]:
    def function(module, query, key, value, mask, scaling=None, softcap=None, sliding_window=None, **_):
        keep(query, key, value)
        query, key = times(query, rule.query_key), times(key, rule.query_key)
        value = times(value, rule.value)
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
        scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        n = scores.shape[-1]
        allowed = torch.ones(n, n, dtype=torch.bool).tril()
        if sliding_window is not None:
            allowed &= ~torch.ones(n, n, dtype=torch.bool).tril(-sliding_window)
        scores = scores.masked_fill(~allowed, float("-inf"))
        pattern = scores.softmax(-1)
        if rule.temperature != 1:
            proxy = rule.temperature * (scores / rule.temperature).softmax(-1)
            pattern = pattern.detach() + proxy - proxy.detach()
        return (pattern @ value).transpose(1, 2), None

    return function


def _frozen_norm(module) -> Callable[[Tensor], Tensor]:
    name, epsilon = type(module).__name__, getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if name == "LayerNorm":

        def forward(x):
            centred = x - x.mean(-1, keepdim=True)
            return centred / (centred.square().mean(-1, keepdim=True) + epsilon).sqrt().detach() * module.weight + (
                module.bias
            )

        return forward
    gain = module.weight + 1 if name.startswith("Gemma") else module.weight
    return lambda x: x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt().detach() * gain


@contextmanager
def under(model, family: str, rule: Rule = PLAIN, keep: Callable[..., None] = lambda *_: None) -> Iterator[None]:
    """The model with its attention (and, where the rule asks for it, norms and MLPs) written out as above."""
    ALL_ATTENTION_FUNCTIONS.register("naive_paths", _attention(rule, keep))
    before = model.config._attn_implementation
    patched = []

    def patch(module, forward):
        patched.append((module, module.__dict__.get("forward")))
        module.forward = forward

    def ratio(forward):
        return lambda x: x * (forward(x) / x).detach()

    def gated(mlp, act):
        return lambda x: mlp.down_proj(times(act(mlp.gate_proj(x)), rule.product) * times(mlp.up_proj(x), rule.product))

    try:
        model.config._attn_implementation = "naive_paths"
        for module in list(model.modules()):
            if rule.freeze_norms and type(module).__name__.endswith(("RMSNorm", "LayerNorm")):
                patch(module, _frozen_norm(module))
        for block in model.get_submodule(PATHS[family][0]):
            mlp = block.mlp
            act = mlp.act_fn if hasattr(mlp, "act_fn") else mlp.act
            if rule.linear_activations:
                patch(act, ratio(act.forward))
            if rule.product != 1 and hasattr(mlp, "up_proj"):
                patch(mlp, gated(mlp, act))
        yield
    finally:
        model.config._attn_implementation = before
        for module, forward in reversed(patched):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def run(
    model, family: str, embeds: Tensor, rule: Rule = PLAIN, edit: Callable[[str, int, Tensor], Tensor] | None = None
) -> Trace:
    """A whole run of embeddings [n, width] under a rule. `edit(site, layer, value)` sees blocks' outputs ("block",
    "attention", "feed_forward": writes) before they are added, for rules that drop some."""
    sites: dict[str, list[Tensor]] = {
        name: [] for name in ("z", "neurons", "mlp", "resid", "queries", "keys", "values")
    }
    blocks, final_norm, out_proj, mlp, down_proj = PATHS[family]

    def keep(query, key, value):
        for name, tensor in (("queries", query), ("keys", key), ("values", value)):
            sites[name].append(tensor)

    def before(name):
        return lambda _, args: sites[name].append(args[0])

    handles = []
    for layer, block in enumerate(model.get_submodule(blocks)):
        handles += [
            block.register_forward_pre_hook(before("resid")),
            block.get_submodule(out_proj).register_forward_pre_hook(before("z")),
            block.get_submodule(down_proj).register_forward_pre_hook(before("neurons")),
            block.get_submodule(mlp).register_forward_hook(lambda _, __, output: sites["mlp"].append(output)),
        ]
        if edit is not None:

            def drop(_, args, output, layer=layer):
                tensor = output[0] if isinstance(output, tuple) else output
                new = edit(layer, args[0], tensor)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handles.append(block.register_forward_hook(drop))
    handles.append(model.get_submodule(final_norm).register_forward_pre_hook(before("resid")))
    try:
        with under(model, family, rule, keep):
            logits = model(inputs_embeds=embeds[None], use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
    return Trace(logits, sites)


def embeddings(model, ids: Sequence[int]) -> Tensor:
    """Token embeddings [n, width], as the model's own embedding module gives them."""
    with torch.no_grad():
        return model.get_input_embeddings()(torch.tensor(list(ids)))


def gradients(trace: Trace, metric: Metric) -> dict[str, list[Tensor]]:
    """∂M/∂site [n, d] of every site and layer."""
    flat = [(site, tensor) for site, tensors in trace.sites.items() for tensor in tensors]
    found = torch.autograd.grad(
        metric(trace.logits[-1]), [tensor for _, tensor in flat], allow_unused=True, materialize_grads=True
    )
    result: dict[str, list[Tensor]] = {site: [] for site in trace.sites}
    for (site, _), gradient in zip(flat, found, strict=True):
        result[site].append(Trace.shaped(gradient))
    return result


def at(model, family, point: Tensor, metric: Metric, rule: Rule = PLAIN) -> tuple[dict, dict]:
    """Values and gradients [n, d] of every site and layer at a point of a path over the input."""
    trace = run(model, family, point.detach().clone().requires_grad_(), rule)
    found = gradients(trace, metric)
    return {site: [Trace.shaped(t).detach() for t in ts] for site, ts in trace.sites.items()}, found


# ---- scores -------------------------------------------------------------------------------------------------------


def parts_of(model, kind: str, width: int, head_dim: int) -> int:
    return {"heads": width // head_dim, "queries": width // head_dim, "keys": width // head_dim,
            "values": width // head_dim, "neurons": width}.get(kind, 1)  # fmt: skip


def contract(units, products: Callable[[str, int], Tensor], head_dim: int) -> Tensor:
    """Scores [units] of a table of `Units` from products [n, d] by (site, layer); NaN where there is no position."""
    scores = []
    for layer, index, position in zip(units.layer.tolist(), units.index.tolist(), units.position.tolist(), strict=True):
        product = products(SITE_OF[units.kind], layer)
        if position >= len(product):
            scores.append(torch.tensor(float("nan"), dtype=torch.float64))
            continue
        if index >= 0:
            size = 1 if units.kind == "neurons" else head_dim
            product = product[:, index * size : (index + 1) * size]
        scores.append(product.sum() if position < 0 else product[position].sum())
    return torch.stack(scores)


def mean_scores(lm, family, own: Tensor, other: Tensor, points, metric, units, rule: Rule = PLAIN) -> Tensor:
    """Δ · Σ_k w_k g_k, Δ between the runs of two embeddings; `points`: (embedding [n, width], weight)."""
    a, _ = at(lm.hf, family, own, metric)
    b, _ = at(lm.hf, family, other, metric)
    found = [(weight, at(lm.hf, family, point, metric, rule)[1]) for point, weight in points]

    def products(site, layer):
        return (b[site][layer] - a[site][layer]) * sum(weight * g[site][layer] for weight, g in found)

    return contract(units, products, lm.decoder.head_dim)


def increment_scores(lm, family, points: Sequence[Tensor], metric, units, left: bool = False) -> Tensor:
    """Σ_k (a_{k+1} − a_k) · ½(g_k + g_{k+1}), or · g_k, along consecutive points."""
    found = [at(lm.hf, family, point, metric) for point in points]

    def products(site, layer):
        a, g = ([pair[which][site][layer] for pair in found] for which in (0, 1))
        return sum((a[k + 1] - a[k]) * (g[k] if left else (g[k] + g[k + 1]) / 2) for k in range(len(points) - 1))

    return contract(units, products, lm.decoder.head_dim)


def tangent_scores(lm, family, own: Tensor, other: Tensor, nodes, metric, units, h: float = 1e-3) -> Tensor:
    """Σ_k w_k (da/dα) · g_k at α_k of the straight path; da/dα by central differences (error of order h⁴)."""
    found = []
    for alpha, weight in nodes:
        _, g = at(lm.hf, family, own + alpha * (other - own), metric)
        a = {step: at(lm.hf, family, own + (alpha + step * h) * (other - own), metric)[0] for step in (-2, -1, 1, 2)}
        found.append((weight, g, a))

    def products(site, layer):
        total = 0
        for weight, g, a in found:
            slope = (8 * (a[1][site][layer] - a[-1][site][layer]) - (a[2][site][layer] - a[-2][site][layer])) / (12 * h)
            total = total + weight * slope * g[site][layer]
        return total

    return contract(units, products, lm.decoder.head_dim)


# ---- GradPath -----------------------------------------------------------------------------------------------------


def descent(model, family, point: Tensor, end: Tensor) -> Tensor:
    """∇_γ ‖G(γ) − G(e′)‖², G the logits at all positions."""
    with torch.no_grad():
        target = run(model, family, end).logits
    leaf = point.detach().clone().requires_grad_()
    return torch.autograd.grad((run(model, family, leaf).logits - target).square().sum(), leaf)[0]


def gradpath(model, family, start: Tensor, end: Tensor, steps: int) -> list[Tensor]:
    """γ_0 … γ_k of the published path, its start included."""
    points = [start]
    for _ in range(steps):
        d = descent(model, family, points[-1], end)
        points.append(points[-1] - d / d.norm())
    return points


# ---- dropped gradients --------------------------------------------------------------------------------------------


def graddrop(lm, family, own: Tensor, other: Tensor, point: Tensor, metric, units) -> Tensor:
    """1/(L − 1) Σ_{ℓ ≠ own layer} |Δ · g with block ℓ's writes detached|, at one point of a path."""
    a, _ = at(lm.hf, family, own, metric)
    b, _ = at(lm.hf, family, other, metric)
    layers = lm.decoder.layers
    total = torch.zeros(len(units), dtype=torch.float64)
    for dropped in range(layers):

        def drop(layer, entered, left, dropped=dropped):
            return entered + (left - entered).detach() if layer == dropped else left

        trace = run(lm.hf, family, point.detach().clone().requires_grad_(), PLAIN, drop)
        g = gradients(trace, metric)
        scores = contract(
            units, lambda site, layer, g=g: (b[site][layer] - a[site][layer]) * g[site][layer], lm.decoder.head_dim
        )
        total += torch.where(torch.as_tensor(units.layer) == dropped, 0.0, scores.abs())
    return total / (layers - 1)
