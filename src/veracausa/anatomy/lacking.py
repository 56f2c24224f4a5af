"""Which kinds of units a model has not, and why: in words that its refusals quote; which readers its heads share."""

from __future__ import annotations

from torch import nn

from veracausa.anatomy.anatomy import Anatomy, part_of
from veracausa.anatomy.beside import NormedMLPs
from veracausa.anatomy.block import Block
from veracausa.anatomy.graph import JOINT
from veracausa.anatomy.mixture import Mixture

#: Kinds of units that attentions have, and those that mixers have.
_OF_ATTENTION = ("heads", "attention", "queries", "keys", "values", "patterns")
_OF_MIXERS = ("mixers", "mixer_heads", "channels", "gates", "layer_gates", "states", "taps")


def lacks_of(anatomy: Anatomy, blocks: tuple[Block, ...], neurons: set[int]) -> dict[str, str]:
    """Kinds of units that a model has not, and why; `neurons`: how many its MLPs have."""
    lacks = dict(anatomy.lacks)
    if anatomy.qkv not in ("separate", "latent") and joint_readers(anatomy, blocks):
        lacks["edges"] = (
            "a norm goes over the queries (or keys) of all heads at once, and one projection gives them and the values."
        )
    if len({block.heads for block in blocks if block.mixing == "attention"}) > 1:
        why = "its blocks have different numbers of heads. Ask for whole attention layers."
        lacks = dict.fromkeys(("heads", "queries", "keys", "values", "patterns", "edges"), why) | lacks
    if len({block.kv_heads for block in blocks if block.mixing == "attention"}) > 1:
        lacks |= dict.fromkeys(("keys", "values"), "its blocks have different numbers of key/value heads.")
    if any(block.own_inputs is not None for block in blocks):
        lacks["edges"] = "each of its blocks reads the stream once more behind its MLP, with an input of its own."
    if any(block.reads_keys for block in blocks):
        why = "its last blocks read keys and values of earlier ones, so that a change of them acts in several blocks."
        lacks |= dict.fromkeys(("keys", "values", "edges", "adapters", "layer_adapters"), why)
    lacks |= _lacks_sublayers(blocks)
    if anatomy.mixer is not None and anatomy.mixer.heads is None:
        lacks.setdefault("mixer_heads", "its mixers' channels are not grouped into heads. Ask for channels.")
    if anatomy.mixer is not None and not anatomy.mixer.scans:
        lacks.setdefault("states", "its mixers are convolutions, which carry nothing but their taps. Ask for taps.")
    if any(block.mixer is not None and block.mixer.gate is None for block in blocks):
        why = "its mixers' gates are told apart by no linear map of their own, nor by their place in what one gives."
        lacks = {"gates": why, "layer_gates": why} | lacks
    if 0 in neurons:
        lacks["neurons"] = "its MLPs are made of experts."
    elif len(neurons) > 1:
        lacks["neurons"] = "its MLPs have several widths."
    if any(isinstance(block.mlp, NormedMLPs) for block in blocks):
        why = "a norm of their sum stands between its experts and their MLP's output, beside an MLP with its own."
        lacks = dict.fromkeys(("experts", "shared", "routers", "expert_neurons"), why) | lacks
        lacks["neurons"] = "its MLPs are made of experts and an MLP beside them, each behind a norm of its own."
    return _lacking_experts([block.mixture for block in blocks if block.mixture is not None]) | lacks


def joint_readers(anatomy: Anatomy, blocks: tuple[Block, ...]) -> tuple[str, ...]:
    """Kinds of readers that the heads of a block share: what one norm goes over, or comes of one latent vector."""
    attending = [block for block in blocks if block.mixing == "attention"]
    if anatomy.qkv == "latent":
        compressed = any(part_of(block.module, anatomy.latent_q) is not None for block in attending)
        return ("q", "kv") if compressed else ("kv",)
    paths = dict(zip("qk", anatomy.qk_norms, strict=False))
    flat = {
        kind
        for block in attending
        for kind, path in paths.items()
        if _is_flat(part_of(block.module, path), block.head_dim)
    }
    return tuple(kind for kind in JOINT if kind in flat)


def _lacks_sublayers(blocks: tuple[Block, ...]) -> dict[str, str]:
    """Kinds of units that a model has not because no block has their sublayer, or not every block."""
    lacks: dict[str, str] = {}
    if all(block.mixing != "attention" for block in blocks):
        lacks |= dict.fromkeys(_OF_ATTENTION, "its positions are mixed by other means than attention. Ask for mixers.")
    if not any(block.mixer is not None for block in blocks):
        lacks |= dict.fromkeys(_OF_MIXERS, "its positions are mixed by attention alone. Ask for heads.")
    if not any(block.has_mlp for block in blocks):
        lacks |= dict.fromkeys(("mlps", "neurons"), "its blocks have no MLP.")
    return lacks


def _lacking_experts(mixtures: list[Mixture]) -> dict[str, str]:
    """Of experts and what belongs to them: the kinds that a model has not, and why."""
    if not mixtures:
        return dict.fromkeys(("experts", "shared", "routers", "expert_neurons"), "its MLPs are not made of experts.")
    lacks = {} if all(one.has_shared for one in mixtures) else {"shared": "no expert of its MLPs sees every token."}
    if len({one.count for one in mixtures}) > 1:
        lacks["experts"] = "its MLPs have several numbers of experts."
    if 0 in {one.neurons for one in mixtures}:
        lacks["expert_neurons"] = "its experts do not keep their down projections side by side (`down_proj`)."
    return lacks


def _is_flat(norm: nn.Module | None, head_dim: int) -> bool:
    """Whether a norm of queries or keys goes over all heads at once."""
    weight = getattr(norm, "weight", None)
    return weight is not None and weight.ndim == 1 and len(weight) != head_dim
