"""The naive reference: whole-model forwards, one prompt at a time, plain hooks on Hugging Face modules.

Slow and obviously right; it shares no code with the library and is what the library's engine is tested against.

A *site* is a tensor [n, d] of one layer at all n positions:
`z` (input of the attention output projection), `neurons` (input of the down projection), `mlp` (output of the MLP
module) and `resid` (input of the block; at layer L, input of the final norm).
A *unit* is (kind, layer, index, position): a part of a site. Kinds `heads` and `attn` live in z, `neurons` in neurons,
`mlps` in mlp, `resid` in resid. Index None is the whole width of the site, position None is all positions.
A *metric* is a function of the logits [V] at the last position. Effects have the sign of METHODS, section 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

Unit = tuple  # (kind, layer, index or None, position or None)
Patch = tuple  # (kind, layer, index or None, position or None, value)
Metric = Callable[[Tensor], Tensor]

SITE_OF = {"heads": "z", "attn": "z", "neurons": "neurons", "mlps": "mlp", "resid": "resid"}

# family: (blocks, final norm; in a block: attention output projection, MLP, MLP down projection). Where a block or its
# MLP module adds the stream itself, the MLP's output is that of its down projection.
_LLAMA = ("model.layers", "model.norm", "self_attn.o_proj", "mlp", "mlp.down_proj")
_NEOX = ("gpt_neox.layers", "gpt_neox.final_layer_norm", "attention.dense", "mlp", "mlp.dense_4h_to_h")
PATHS = {
    "gpt2": ("transformer.h", "transformer.ln_f", "attn.c_proj", "mlp", "mlp.c_proj"),
    "gpt_neox": _NEOX, "gpt_neox-sequential": _NEOX,
    "llama": _LLAMA, "mistral": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA, "smollm3": _LLAMA,
    "gemma2": _LLAMA, "gemma3": _LLAMA, "gemma4": _LLAMA,
    **dict.fromkeys(("gemma4-experts", "gemma4-own-inputs", "granite", "olmo2"), _LLAMA),
    "gpt_neo": ("transformer.h", "transformer.ln_f", "attn.attention.out_proj", "mlp", "mlp.c_proj"),
    **dict.fromkeys(("gptj", "codegen"), ("transformer.h", "transformer.ln_f", "attn.out_proj", "mlp", "mlp.fc_out")),
    "bloom": ("transformer.h", "transformer.ln_f", "self_attention.dense", *("mlp.dense_4h_to_h",) * 2),
    **dict.fromkeys(
        ("falcon", "falcon-groups", "falcon-alibi"),
        ("transformer.h", "transformer.ln_f", "self_attention.dense", "mlp", "mlp.dense_4h_to_h"),
    ),
    "mpt": ("transformer.blocks", "transformer.norm_f", "attn.out_proj", *("ffn.down_proj",) * 2),
    "gpt_neox_japanese": ("gpt_neox_japanese.layers", "gpt_neox_japanese.final_layer_norm", *_NEOX[2:]),
    "xglm": ("model.layers", "model.layer_norm", "self_attn.out_proj", *("fc2",) * 2),
}  # fmt: skip


def logit_difference(correct: int, incorrect: int) -> Metric:
    return lambda logits: logits[correct] - logits[incorrect]


# ---- running ------------------------------------------------------------------------------------------------------


def _n_layers(model, family: str) -> int:
    return len(model.get_submodule(PATHS[family][0]))


def _hook(model, family: str, site: str, layer: int, edit: Callable[[Tensor], Tensor]):
    """Pass the site's activation [n, d] through `edit` in every later forward, until the handle is removed."""
    blocks, final_norm, out_proj, mlp, down_proj = PATHS[family]
    block = f"{blocks}.{layer}"
    if site == "mlp":
        module = model.get_submodule(f"{block}.{mlp}")
        return module.register_forward_hook(lambda module, args, output: edit(output[0])[None])
    if site == "resid":
        path = final_norm if layer == _n_layers(model, family) else block
    else:
        path = f"{block}.{out_proj}" if site == "z" else f"{block}.{down_proj}"
    return model.get_submodule(path).register_forward_pre_hook(lambda module, args: (edit(args[0][0])[None], *args[1:]))


def _run(model, family: str, ids: Sequence[int], edits: list[tuple[str, int, Callable]]) -> Tensor:
    """Logits [n, V] of a whole forward in which each (site, layer, edit) is applied."""
    handles = [_hook(model, family, site, layer, edit) for site, layer, edit in edits]
    try:
        return model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()


def activations(model, family: str, ids: Sequence[int]) -> dict[str, dict[int, Tensor]]:
    """Every site's activation [n, d], as `activations(...)[site][layer]`; `attn` is another name of `z`."""
    found: dict[str, dict[int, Tensor]] = {"z": {}, "neurons": {}, "mlp": {}, "resid": {}}

    def keep(site, layer):
        def edit(a):
            found[site][layer] = a.detach().clone()
            return a

        return site, layer, edit

    n = _n_layers(model, family)
    places = [(site, layer) for site in found for layer in range(n + (site == "resid"))]
    with torch.no_grad():
        _run(model, family, ids, [keep(site, layer) for site, layer in places])
    return found | {"attn": found["z"]}


def run_patched(model, family: str, ids: Sequence[int], patches: Sequence[Patch]) -> Tensor:
    """Logits [n, V] with each patch's value ([n, d of the unit] or [d of the unit]) put in its unit's place."""

    def put(kind, layer, index, position, value):
        def edit(a):
            rows, columns = where(model, kind, index, position, a.shape[1])
            new = value[rows] if value.ndim == 2 and len(value) == len(a) else value
            a = a.clone()
            a[rows, columns] = new
            return a

        return SITE_OF[kind], layer, edit

    with torch.no_grad():
        return _run(model, family, ids, [put(*patch) for patch in patches])


def where(model, kind: str, index: int | None, position: int | None, width: int) -> tuple[slice, slice]:
    """Rows and columns of a unit in its site's activation [n, width]."""
    rows = slice(None) if position is None else slice(position, position + 1)
    if index is None or kind in ("attn", "mlps", "resid"):
        return rows, slice(None)
    size = width // model.config.num_attention_heads if kind == "heads" else 1
    return rows, slice(index * size, (index + 1) * size)


# ---- what a unit is replaced by -----------------------------------------------------------------------------------


def _ends(model, family, clean, corrupted, units, direction, ablation, reference):
    """The prompt that is run, its activations, and per unit its site's replacement, all of shape [n, d].

    Noising runs the clean prompt. Replacements: `counterfactual` the corrupted run's activation; `zero`; `mean` over
    the prompts in `reference`, per position if they all are as long as the clean prompt, else over all positions of
    all of them; `resample` the activation in the run of `reference[i]`, unit i's donor prompt, as long as clean.
    Denoising runs the corrupted prompt and puts clean values in.
    """
    if len(clean) != len(corrupted):
        raise ValueError("clean and corrupted prompts have different lengths")
    if direction == "denoising":
        if ablation != "counterfactual":
            raise ValueError("denoising puts clean values in: there is nothing to ablate")
        clean, corrupted = corrupted, clean
    elif direction != "noising":
        raise ValueError(direction)
    own = activations(model, family, clean)
    sites = [(SITE_OF[kind], layer) for kind, layer, _, _ in units]
    if ablation == "counterfactual":
        other = activations(model, family, corrupted)
        new = [other[site][layer] for site, layer in sites]
    elif ablation == "zero":
        new = [torch.zeros_like(own[site][layer]) for site, layer in sites]
    elif ablation == "mean":
        runs = [activations(model, family, ids) for ids in reference]
        aligned = all(len(ids) == len(clean) for ids in reference)
        if aligned:
            new = [sum(run[site][layer] for run in runs) / len(runs) for site, layer in sites]
        else:
            means = [torch.cat([run[site][layer] for run in runs]).mean(0) for site, layer in sites]
            new = [mean.expand(len(clean), -1) for mean in means]
    elif ablation == "resample":
        if len(reference) != len(units) or any(len(ids) != len(clean) for ids in reference):
            raise ValueError("resample needs one donor prompt per unit, as long as the clean prompt")
        new = [
            activations(model, family, ids)[site][layer] for ids, (site, layer) in zip(reference, sites, strict=True)
        ]
    else:
        raise ValueError(ablation)
    return clean, own, new


def _read(metric, logits: Tensor) -> Tensor:
    """A metric of logits [n, V]: of the last position, or of all where it says that it reads the `whole`."""
    return metric(logits) if getattr(metric, "whole", False) else metric(logits[-1])


# ---- exact effects ------------------------------------------------------------------------------------------------


def exact(model, family, clean_ids, corrupted_ids, metric, units,
          direction="noising", ablation="counterfactual", reference=None) -> Tensor:  # fmt: skip
    """Effect of each unit [len(units)]: M(run with the unit replaced) − M(run).

    Noising replaces in the clean run, denoising puts the clean value into the corrupted run.
    """
    ids, _, new = _ends(model, family, clean_ids, corrupted_ids, units, direction, ablation, reference)
    before = _read(metric, run_patched(model, family, ids, []))
    effects = []
    for unit, replacement in zip(units, new, strict=True):
        after = _read(metric, run_patched(model, family, ids, [_patch(model, unit, replacement)]))
        effects.append(after - before)
    return torch.stack(effects)


def _patch(model, unit: Unit, site_value: Tensor) -> Patch:
    """The patch that gives a unit its part of `site_value` [n, d]."""
    kind, _, index, position = unit
    rows, columns = where(model, kind, index, position, site_value.shape[1])
    return (*unit, site_value[rows, columns])


def alpha_curve(model, family, clean_ids, corrupted_ids, metric, unit, alphas,
                direction="noising", ablation="counterfactual", reference=None) -> Tensor:  # fmt: skip
    """M(run with the unit at a + α(a' − a)) for each α [len(alphas)]."""
    ids, own, [new] = _ends(model, family, clean_ids, corrupted_ids, [unit], direction, ablation, reference)
    a = own[SITE_OF[unit[0]]][unit[1]]
    values = [_patch(model, unit, a + float(alpha) * (new - a)) for alpha in alphas]
    return torch.stack([_read(metric, run_patched(model, family, ids, [value])) for value in values])


# ---- gradient estimates -------------------------------------------------------------------------------------------


def slope(model, family, ids, metric, kind: str, layer: int, value: Tensor) -> Tensor:
    """∂M/∂a [n, d] of a whole site at a = value, the rest of the run computed from it."""
    leaf = value.detach().clone().requires_grad_()
    edit = (SITE_OF[kind], layer, lambda a: leaf.clone())  # a block may add to it in place
    m = _read(metric, _run(model, family, ids, [edit]))
    return torch.autograd.grad(m, leaf)[0]


def atp(model, family, clean_ids, corrupted_ids, metric, units,
        direction="noising", ablation="counterfactual", reference=None) -> Tensor:  # fmt: skip
    """Attribution patching: Δ_u · ∂M/∂a_u at the run that is patched (denoising: the corrupted one)."""
    ids, own, new = _ends(model, family, clean_ids, corrupted_ids, units, direction, ablation, reference)
    gradients = {}
    for kind, layer, _, _ in units:
        if (kind, layer) not in gradients:
            gradients[kind, layer] = slope(model, family, ids, metric, kind, layer, own[SITE_OF[kind]][layer])
    return _contract(model, own, new, units, [gradients[kind, layer] for kind, layer, _, _ in units])


def _contract(model, own, new, units, gradients) -> Tensor:
    """Σ over each unit of (replacement − own value) · gradient."""
    scores = []
    for (kind, layer, index, position), replacement, gradient in zip(units, new, gradients, strict=True):
        product = (replacement - own[SITE_OF[kind]][layer]) * gradient
        scores.append(product[where(model, kind, index, position, product.shape[1])].sum())
    return torch.stack(scores)


def central_difference(model, family, clean_ids, corrupted_ids, metric, units,
                       direction="noising", ablation="counterfactual", reference=None, h=3e-4) -> Tensor:  # fmt: skip
    """What `atp` computes, from M at α = ±h and ±2h (error of order h⁴); for float64 models."""
    slopes = []
    for i, unit in enumerate(units):
        donor = [reference[i]] if ablation == "resample" else reference
        down2, down, up, up2 = alpha_curve(
            model, family, clean_ids, corrupted_ids, metric, unit, [-2 * h, -h, h, 2 * h], direction, ablation, donor
        )
        slopes.append((8 * (up - down) - (up2 - down2)) / (12 * h))
    return torch.stack(slopes)


Grid = list[tuple[float, float]]  # (α, weight)


def gauss_legendre(nodes: int, start: float = 0.0, end: float = 1.0) -> Grid:
    x, w = np.polynomial.legendre.leggauss(nodes)
    width = end - start
    return [(start + width * float(a + 1) / 2, width * float(b) / 2) for a, b in zip(x, w, strict=True)]


def graded(nodes: int, panels: int) -> Grid:
    """Gauss–Legendre on [0, ¾], [¾, 15/16], … and last [1 − ¼ᵖ, 1].

    For paths to zero through a norm: x/‖x‖ of a vanishing x keeps its direction until ‖x‖² is as small as the norm's
    ε, so that the whole effect sits at the very end of the path, where a plain grid has no nodes.
    """
    ends = [0.0, *(1 - 0.25**p for p in range(1, panels + 1)), 1.0]
    return [node for start, end in pairwise(ends) for node in gauss_legendre(nodes, start, end)]


def ig_layer(model, family, clean_ids, corrupted_ids, metric, units, nodes=16,
             direction="noising", ablation="counterfactual", reference=None) -> Tensor:  # fmt: skip
    """Integrated gradients, layer-straight: all of a unit's site moves, at all positions; baseline = the ablation.

    The scores of all units of a site tend to the effect of patching the whole site. With `resample` each unit's
    site moves toward the unit's own donor. `nodes`: so many Gauss–Legendre nodes, or any grid.
    """
    ids, own, new = _ends(model, family, clean_ids, corrupted_ids, units, direction, ablation, reference)
    grid = gauss_legendre(nodes) if isinstance(nodes, int) else nodes
    done, gradients = {}, []
    for i, ((kind, layer, _, _), replacement) in enumerate(zip(units, new, strict=True)):
        key = (kind, layer, i if ablation == "resample" else None)
        if key not in done:
            a = own[SITE_OF[kind]][layer]
            done[key] = sum(
                weight * slope(model, family, ids, metric, kind, layer, a + alpha * (replacement - a))
                for alpha, weight in grid
            )
        gradients.append(done[key])
    return _contract(model, own, new, units, gradients)


def ig_unit(model, family, clean_ids, corrupted_ids, metric, units, nodes=16,
            direction="noising", ablation="counterfactual", reference=None) -> Tensor:  # fmt: skip
    """Integrated gradients, unit-straight: only the unit moves; tends to `exact`. `nodes`: as for `ig_layer`."""
    ids, own, new = _ends(model, family, clean_ids, corrupted_ids, units, direction, ablation, reference)
    grid = gauss_legendre(nodes) if isinstance(nodes, int) else nodes
    gradients = []
    for (kind, layer, index, position), replacement in zip(units, new, strict=True):
        a = own[SITE_OF[kind]][layer]
        part = where(model, kind, index, position, a.shape[1])
        total = torch.zeros_like(a)
        for alpha, weight in grid:
            value = a.clone()
            value[part] += alpha * (replacement - a)[part]
            total += weight * slope(model, family, ids, metric, kind, layer, value)
        gradients.append(total)
    return _contract(model, own, new, units, gradients)


# ---- the published pair on a real model ---------------------------------------------------------------------------

CLEAN = "After John and Mary went to the store, Mary gave a bottle of milk to"
CORRUPTED = "After John and Mary went to the store, John gave a bottle of milk to"


def published_pair(model, tokenizer, family="llama", fine_layers=(), progress=print) -> dict:
    """Noising effects and estimates on the published pair, all divided by the gap M(x) − M(x').

    Per head [layer][head], MLP and attention layer [layer]; of neurons, ten spread evenly and the ten with the
    largest |atp|. `fine_layers` get their heads' IG on 50 nodes too. Give it a model that computes in float64.
    """
    clean, corrupted = tokenizer(CLEAN).input_ids, tokenizer(CORRUPTED).input_ids
    correct, incorrect = (tokenizer(name, add_special_tokens=False).input_ids[0] for name in (" John", " Mary"))
    metric = logit_difference(correct, incorrect)
    m_clean, m_corrupted = (_read(metric, run_patched(model, family, ids, [])).item() for ids in (clean, corrupted))
    n_layers, n_heads = _n_layers(model, family), model.config.num_attention_heads
    layers = range(n_layers)

    def effects(function, units, **options):
        progress(f"{function.__name__} {len(units)} {units[0][0]} {options}")
        found = function(model, family, clean, corrupted, metric, units, **options) / (m_clean - m_corrupted)
        return [float(f"{e:.6g}") for e in found.tolist()]

    heads = [("heads", layer, head, None) for layer in layers for head in range(n_heads)]
    fine = [unit for unit in heads if unit[1] in fine_layers]

    def by_layer(values):
        return [values[i : i + n_heads] for i in range(0, len(values), n_heads)]

    attn = [("attn", layer, None, None) for layer in layers]
    mlps = [("mlps", layer, None, None) for layer in layers]
    width = activations(model, family, clean[:1])["neurons"][0].shape[1]
    neurons = [("neurons", layer, index, None) for layer in layers for index in range(width)]
    slopes = dict(zip(neurons, effects(atp, neurons), strict=True))
    chosen = [("neurons", i * n_layers // 10, 157 * i % width, None) for i in range(10)]
    chosen += sorted(neurons, key=lambda unit: -abs(slopes[unit]))[:10]
    return {
        "clean": CLEAN, "corrupted": CORRUPTED, "correct": " John", "incorrect": " Mary",
        "clean_ids": clean, "corrupted_ids": corrupted, "correct_id": correct, "incorrect_id": incorrect,
        "m_clean": m_clean, "m_corrupted": m_corrupted, "gap": m_clean - m_corrupted,
        "heads": {
            "exact": by_layer(effects(exact, heads)), "atp": by_layer(effects(atp, heads)),
            "ig_corrupted_16": by_layer(effects(ig_layer, heads)),
            "ig_zero_16": by_layer(effects(ig_layer, heads, ablation="zero")),
        },
        "heads_50_nodes": {
            "layers": list(fine_layers),
            "ig_corrupted_50": by_layer(effects(ig_layer, fine, nodes=50)) if fine else [],
            "ig_zero_50": by_layer(effects(ig_layer, fine, nodes=50, ablation="zero")) if fine else [],
        },
        "attn": {"exact": effects(exact, attn), "exact_zero": effects(exact, attn, ablation="zero")},
        "mlps": {"exact": effects(exact, mlps), "atp": effects(atp, mlps)},
        "neurons": {
            f"m{layer}.n{index}": {"exact": effect, "atp": slopes[kind, layer, index, position]}
            for (kind, layer, index, position), effect in zip(chosen, effects(exact, chosen), strict=True)
        },
    }  # fmt: skip
