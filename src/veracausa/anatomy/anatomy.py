"""What an anatomy is: where a family of decoders keeps its parts, and how they are glued together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from veracausa.anatomy.beside import Beside
from veracausa.anatomy.bridges import Bridge
from veracausa.anatomy.mixers import Mixer
from veracausa.anatomy.own_inputs import OwnInput, SharedKeys

Layout = Literal["separate", "fused-thirds", "fused-per-group", "fused-in-fours", "latent"]

#: What mixes the positions in a block; "nothing" in one that is an MLP alone.
Mixing = Literal["attention", "mixer", "nothing"]

#: A dotted path, or several of which the first that a model has is meant.
Path = str | tuple[str, ...]


#: Parts of a block, in the order in which messages name them.
_ROLES = (
    *("attention", "attention_out", "q", "k", "v", "mlp", "mlp_in", "mlp_out", "activation", "up"),
    *("attention_norm", "mlp_norm", "attention_post_norm", "mlp_post_norm", "router"),
)


@dataclass(frozen=True)
class Anatomy:
    """Module names of one family, as dotted paths, and how the modules are glued together.

    Ends. `backbone`, `unembedding`: from the causal-LM object. `blocks`, `final_norm`, `embeddings`, `position_table`
    (learned embeddings of positions, if a family has them, behind `position_offset` rows that stand for none): from the
    backbone. `most_positions`: config attribute that says how many positions there are where no table does, or how wide
    a window is that the attention function is not told of. All else is from one block.

    Attention. `attention_bias`: what a block adds behind `attention_out`, where it does. `attention_gives`: how many
    things the module gives. `q`, `k`, `v`: the linear maps by which it reads the stream; keys and values may be one
    map's. `qkv` says how these are stored: "separate" modules, one module with "fused-thirds" (all q, all k, all v),
    "fused-per-group" (the q of the first key/value head's group, its k, its v, those of the next) or "fused-in-fours"
    (q, v and k of the first quarter of the heads, those of the next); or "latent": one module gives the vector that all
    keys and values are made of, and where a block has `latent_q`, `q` gives the one of all queries. `qk_norms`: norms
    of queries and of keys, where a model has them. `heads_by_block`, `kv_heads_by_block`: blocks may have different
    numbers of heads, or of key/value heads. `bridge`: how an attention module that chooses no attention function by
    name is led to one (see `bridges`). `repeats_keys`: config attribute that says whether the model's cache holds each
    key and value once for every query head that shares it.

    Mixers. `mixer`: of blocks that have one in the place of attention (see `mixers`). `mixer_blocks`: those blocks'
    anatomy, where they are glued otherwise than the rest. `mixer_gives_two`: it gives something beside its output.
    `side_by_side`: a block's mixer stands beside its attention; both read behind one norm, and both write.
    `lone`: a block is one sublayer, an attention, a mixer or an MLP, whichever it has. `float32_stream`: config
    attribute that says whether the stream is carried in float32, whatever the weights are in.

    MLP. `mlp`: None where a block calls its parts itself; then `mlp_in` is the first of them. `mlp_beside`: one that
    runs before it on the same input, where a block has both (see `beside`). `experts`: what stands in a mixture of
    experts in the place of a down projection and an activation; `router`: what chooses among them; `shared`: an expert
    beside them that sees every token; `experts_down`: where the experts keep their down projections below one another,
    neuron by neuron; `experts_scale`: the block's number by which their sum is multiplied; `averaged`:
    config attribute that says "average" where the MLP halves the sum of both. `up`: the branch that a gated MLP
    multiplies its activation with (None: no gate); `up_fused`: the latter half of that module's output. `joins_rows`:
    the block gives its MLP rows and positions as one dimension. `gives_two`: an MLP that is made of experts gives
    something beside its output; `flattens`: it gives rows and positions as one dimension.

    Glue. `attention_norm`, `mlp_norm`: None where the sublayer reads the stream as it is; one module for both where one
    norm serves both. `parallel`: whether attention and MLP read the same residual, or the config attribute that
    says so, or several of which one must. `adds_in_place`: the block changes its MLP's output in place.
    Numbers of the block: `residual_scale`, by which every write is multiplied; `stream_scale`, by which it multiplies
    the whole stream behind its last write; `attention_in_scale`, by which it multiplies what it gives its attention;
    `attention_out_scale`, `mixer_out_scale`, what the attention or the mixer gives; `down_scale`: what the MLP does,
    behind its down projection. `own_input`, `shared_keys`: what a block gets beside the stream (see `own_inputs`).
    Config attributes: `embedding_scale`, by which the backbone multiplies the embeddings of tokens, and not embeddings
    that it is given; `logit_scale` and `logit_divisor`, by which logits are multiplied and divided; `logit_softcap`;
    `clips`, to which the attention clips what its projections give.

    Limits. `must`: what else must stand in the config, as (attribute, value, what another value means). `without`:
    parts of a block that must not be there, and what they are. `lacks`: kinds of units that the family has not, and
    why. `causal`: no position sees a later one; a family that is not says `is_causal=False` to its attention function,
    and its clean and corrupted runs share no prefix.
    """

    family: str
    backbone: str = "model"
    blocks: str = "layers"
    embeddings: str = "embed_tokens"
    position_table: str | None = None
    position_offset: int = 0
    most_positions: str | None = None
    final_norm: str = "norm"
    unembedding: str = "lm_head"
    attention: str = "self_attn"
    attention_out: str = "self_attn.o_proj"
    attention_bias: str | None = None
    attention_gives: int = 2
    q: Path = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: Path = "self_attn.v_proj"
    qkv: Layout = "separate"
    latent_q: str | None = None
    mixer: Mixer | None = None
    mixer_blocks: Anatomy | None = None
    mixer_gives_two: bool = False
    side_by_side: bool = False
    lone: bool = False
    float32_stream: str | None = None
    mlp: Path | None = "mlp"
    mlp_beside: str | Beside | None = None
    mlp_in: str | None = None
    mlp_out: str = "mlp.down_proj"
    activation: str | None = "mlp.act_fn"
    experts: str | None = None
    router: Path = ("mlp.gate", "mlp.router")
    shared: Path = ("mlp.shared_experts", "mlp.shared_expert", "mlp.shared_mlp")
    experts_down: str | None = None
    experts_scale: str | None = None
    averaged: str | None = None
    up: str | None = "mlp.up_proj"
    up_fused: bool = False
    joins_rows: bool = False
    gives_two: bool = False
    flattens: bool = False
    attention_norm: Path | None = "input_layernorm"
    mlp_norm: Path | None = "post_attention_layernorm"
    qk_norms: tuple[str, ...] = ("self_attn.q_norm", "self_attn.k_norm")
    attention_post_norm: str | None = None
    mlp_post_norm: str | None = None
    parallel: str | bool | tuple[str, ...] = False
    residual_scale: str | None = None
    stream_scale: str | None = None
    attention_in_scale: str | None = None
    attention_out_scale: str | None = None
    mixer_out_scale: str | None = None
    down_scale: str | None = None
    embedding_scale: str | None = None
    own_input: OwnInput | None = None
    shared_keys: SharedKeys | None = None
    logit_scale: str | None = None
    logit_divisor: str | None = None
    logit_softcap: str | None = None
    clips: str | None = None
    adds_in_place: bool = False
    must: tuple[tuple[str, object, str], ...] = ()
    without: tuple[tuple[str, str], ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()
    causal: bool = True
    heads_by_block: bool = False
    kv_heads_by_block: bool = False
    bridge: Bridge | None = None
    repeats_keys: str | None = None

    def mixing(self, block: Any) -> Mixing:
        """What mixes the positions in a block of this family."""
        if self.mixer is not None and part_of(block, self.mixer.told_by or self.mixer.out) and not self.both(block):
            return "mixer"
        return "nothing" if self.lone and part_of(block, self.attention_out) is None else "attention"

    def both(self, block: Any) -> bool:
        """Whether a block has an attention and a mixer beside it."""
        parts = (self.mixer.out, self.attention_out) if self.side_by_side and self.mixer is not None else ()
        return bool(parts) and all(part_of(block, part) is not None for part in parts)

    def of(self, block: Any) -> Anatomy:
        """The anatomy of a block: the family's, or that of its blocks with mixers."""
        return self.mixer_blocks if self.mixer_blocks is not None and self.mixing(block) == "mixer" else self

    def reads_keys(self, block: Any) -> bool:
        """Whether a block of this family reads keys and values of an earlier one."""
        return self.shared_keys is not None and bool(part_of(block, self.shared_keys.reads))

    def has_mlp(self, block: Any) -> bool:
        """Whether a block of this family has an MLP."""
        return not self.lone or self.mixing(block) == "nothing"

    def block_parts(self, block: Any) -> dict[str, Path]:
        """Role → dotted path, for every part that this block must have."""
        if (own := self.of(block)) is not self:
            return own.block_parts(block)
        mixing, roles = self.mixing(block), ["attention_norm", "attention_post_norm"]
        if mixing == "attention":
            roles += ["attention", "attention_out", "q"] + ([] if self.reads_keys(block) else ["k", "v"])
        if self.has_mlp(block):
            roles += ["mlp", "mlp_in", "mlp_norm", "mlp_post_norm"]
            roles += ["mlp_out", "activation", "up"] if part_of(block, self.experts) is None else ["router"]
        found = {role: getattr(self, role) for role in _ROLES if role in roles}
        if (mixing == "mixer" or self.both(block)) and self.mixer is not None:
            found["mixer"] = self.mixer.module
        return {role: path for role, path in found.items() if path}


def part_of(root: Any, path: Path | None) -> Any:
    """The part at a path, None if there is none."""
    if path is None:
        return None
    if not isinstance(path, str):
        return next((found for one in path if (found := part_of(root, one)) is not None), None)
    for name in path.split("."):
        root = getattr(root, name, None)
        if root is None:
            return None
    return root
