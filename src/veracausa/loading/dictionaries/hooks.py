"""From names of hooks and modules to sites: what libraries call the place where a dictionary was trained.

| name | site |
|---|---|
| `blocks.10.hook_resid_pre`, `blocks.9.hook_resid_post` | r10 |
| `blocks.10.hook_attn_out`, `blocks.10.hook_mlp_out` | a10, m10; a10.post, m10.post where a post-norm follows |
| `blocks.10.hook_resid_mid` | r10.mid |
| `blocks.10.attn.hook_z` | z10 |
| `blocks.10.ln2.hook_normalized` | n10, before the norm's gain |
| `blocks.10.mlp.hook_in`, `blocks.10.mlp.hook_out` | n10, m10 |
| `layers.9`, `transformer.h.9`, `model.layers.9.output` | r10: what the block gives on |
| `layers.10.mlp`, `layers.10.self_attn`, … | m10, a10: what the module gives |
| `model.layers.10.pre_feedforward_layernorm.output` | n10 |
| `model.layers.10.post_feedforward_layernorm.output` | m10.post |
| `model.layers.10.self_attn.o_proj.input` | z10 |
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from veracausa.arguments import shown
from veracausa.dictionaries import Site
from veracausa.errors import FileError, MethodError
from veracausa.model import Model

_TL = re.compile(r"blocks\.(\d+)\.(.+)")
_MODULE = re.compile(r"(?:[a-z_]+\.)*?(?:layers|h|blocks)\.(\d+)((?:\.[a-z_0-9]+)*)")

_MLP_MODULES = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_ATTENTION_MODULES = ("self_attn", "attn", "attention", "self_attention")
#: Names that are known, and are no sites.
_NONE = {
    "hook_mlp_in": "the stream between attention and MLP, before the norm",
    "ln1.hook_normalized": "what the attention reads",
    "mlp.hook_pre": "the MLP before its activation",
    "mlp.hook_post": "the MLP's neurons, which are units of their own: units='neurons@10'",
    "hook_embed": "the embeddings without positions",
}


@dataclass(frozen=True)
class Hook:
    """A site by name; `unweighted`: what is read there is the norm's output before its gain."""

    site: str
    unweighted: bool = False


def hook_of(lm: Model, name: str, *, layer: int | None = None) -> Hook:
    """The site that a name means in a model; `layer`: for names without one, such as "hook_mlp_out".

    Raises:
        FileError: the name is not known, or means no site.
    """
    full = name if layer is None or re.search(r"\d", name.replace("ln2", "")) else f"blocks.{layer}.{name}"
    try:
        return Hook(Site.of(full).name)
    except MethodError:
        pass
    if (match := _TL.fullmatch(full)) and (found := _of_hook(lm, int(match[1]), match[2])):
        return found
    if (match := _MODULE.fullmatch(full)) and (found := _of_module(lm, int(match[1]), match[2].lstrip("."))):
        return found
    kind = next((f" ({what})" for key, what in _NONE.items() if full.endswith(key)), "")
    raise FileError(
        f"This dictionary was trained at {shown(name)}{kind}, which is no site of veracausa: sites are r10 (the stream "
        "entering block 10), r10.mid, a10, m10, a10.post, m10.post, z10 and n10. If it means one of them, hand its "
        "tensors over as a dict and say site='…'."
    )


def _of_hook(lm: Model, layer: int, hook: str) -> Hook | None:
    plain = {"hook_resid_pre": f"r{layer}", "hook_resid_mid": f"r{layer}.mid", "hook_resid_post": f"r{layer + 1}",
             "attn.hook_z": f"z{layer}", "mlp.hook_in": f"n{layer}", "mlp.hook_out": f"m{layer}",
             "hook_mlp_out": _post(lm, "m", layer), "hook_attn_out": _post(lm, "a", layer)}  # fmt: skip
    if hook == "ln2.hook_normalized":
        return Hook(f"n{layer}", unweighted=True)
    return Hook(plain[hook]) if hook in plain else None


def _of_module(lm: Model, layer: int, rest: str) -> Hook | None:
    module, _, end = rest.rpartition(".") if rest.split(".")[-1] in ("input", "output") else (rest, "", "output")
    if not module:
        return Hook(f"r{layer + (end == 'output')}")
    if module in _MLP_MODULES:
        return Hook(f"{'m' if end == 'output' else 'n'}{layer}")
    if module in _ATTENTION_MODULES and end == "output":
        return Hook(f"a{layer}")
    behind = {"pre_feedforward_layernorm.output": f"n{layer}", "self_attn.o_proj.input": f"z{layer}",
              "post_feedforward_layernorm.output": _post(lm, "m", layer)}  # fmt: skip
    if f"{module}.{end}" == "post_attention_layernorm.output":  # a norm before the MLP, or behind the attention
        return Hook(_post(lm, "a", layer) if _has_post(lm, "a", layer) else f"n{layer}")
    return Hook(behind[f"{module}.{end}"]) if f"{module}.{end}" in behind else None


def _has_post(lm: Model, kind: str, layer: int) -> bool:
    if layer >= lm.layers:
        return False
    block = lm.decoder.blocks[layer]
    return (block.mlp_post_norm if kind == "m" else block.attention_post_norm) is not None


def _post(lm: Model, kind: str, layer: int) -> str:
    """The site behind a block's post-norm, where it has one: hooks of that name stand behind it."""
    return f"{kind}{layer}{'.post' if _has_post(lm, kind, layer) else ''}"
