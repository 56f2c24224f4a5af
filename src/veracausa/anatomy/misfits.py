"""What of an unknown model does not fit the picture of a decoder: blocks that add to one residual stream, each by an
attention and an MLP.

Asked only of models of no known family, to refuse them in words: their modules are looked through for parts that are
known to belong to another picture.
"""

from __future__ import annotations

import re
from typing import Any

#: What a module's path and class (`path:Class`) look like → what it means; the most telling first. These are around
#: the blocks …
AROUND: tuple[tuple[str, str], ...] = (
    (
        r"(^|\.)\w*(vision|image|audio|speech)\w*:",
        "It is a wrapper for images or sound around a text decoder ({part}). Pass that alone, where it can "
        "be had as a …ForCausalLM.",
    ),
    (
        r"(^|\.)(local_encoder|global_transformer|patcher):",
        "It joins bytes to patches and runs several transformers one after another ({part}), each with its own stream.",
    ),
    (
        r"(^|\.)[HL]_module:",
        "It runs the same blocks several times ({part}): a block has no one place in the stream.",
    ),
    (r"(^|\.)attentions:", "It keeps all attentions in one list ({part}) and all MLPs in another, and has no blocks."),
    (r":NanoChatModel$", "Its last norm stands ahead of the blocks, too ({part}): one norm in two places."),
    (
        r":MiniMaxDecoderLayer$",
        "Its stream goes through norms, not beside them ({part}): what a block adds to is not what came before it.",
    ),
    (r":BeamDecoderLayer$", "Its residual stream is scaled at every sum ({part}), so that writes do not add up."),
    (r":Rwkv\w+", "Its blocks mix positions by a recurrence ({part}), not by attention."),
)
#: … and these in them, with their paths from the block on.
INSIDE: tuple[tuple[str, str], ...] = (
    (
        r"(encoder_attn|cross_?attn|cross_?attention):|:\w*CrossAttention",
        "Its blocks have cross-attention ({part}), which reads another stream: it is half of an encoder–decoder, or "
        "reads images.",
    ),
    (
        r":\w*(HyperConnection|AltUp|GatedResidual|BlockAttentionResidual)",
        "It has several residual streams, mixed by {part}: a write has no one stream that it is added to.",
    ),
    (
        r":\w*ResidualScaling|layer_scalar:",
        "Its residual stream is scaled on its way ({part}), so that writes do not add up.",
    ),
    (r"mlps\.\d+:", "Each of its blocks has several attentions and several MLPs ({part})."),
    (
        r"(^|\.)shared_transf\w*:",
        "One transformer block is shared by several places ({part}), and reads the stream and the embeddings side by "
        "side: it has no one place in the stream.",
    ),
    (
        r"mamba\w*:|:\w*(Mixer|MambaLayer|Rglru)$",
        "Its blocks mix positions by a state-space layer ({part}), not by attention alone.",
    ),
    (
        r":\w*(GatedDeltaNet|DeltaAttention|LightningAttention)",
        "Its blocks have linear attention ({part}): a state that is carried along, not a pattern over positions.",
    ),
    (
        r":\w*(ShortConv|Convolution|RecurrentBlock)\w*",
        "Its blocks mix positions by a convolution or a recurrence ({part}).",
    ),
    (r":xLSTM\w*Layer", "Its blocks mix positions by a recurrence ({part}), not by attention."),
    (
        r"(indexer|compressor):|:(LSH|Local)SelfAttention|:\w*BlockSparseAttention",
        "Its attention chooses or joins the keys that it sees ({part}), by more than its queries and keys.",
    ),
    (r"kv_[ab]_proj\w*:", "Its attention makes keys and values of latent vectors ({part})."),
    (r":\w*MoA", "Its attention is made of experts ({part})."),
    (r"groupnorm:", "Its attention is the difference of two patterns, normed behind ({part})."),
    (r"self_attn\.dt_proj:", "Its attention hides keys by a gate of its own ({part})."),
    (
        r":\w*(CCAProjection|RelativeLogits|NgramSelfAttention|RelativeAttention)",
        "Its attention has a part for which veracausa has no name ({part}).",
    ),
    (r"adapter_modules:", "Its blocks have adapters, one for each language ({part})."),
    (
        r"attention\.output\.LayerNorm:",
        "The norms of its blocks stand behind each sum, as in encoders ({part}): the stream is rewritten in every "
        "block, not added to.",
    ),
    (
        r"experts:|:\w*(Experts|MoE|Moe)(Layer|Block)?$",
        "Its MLPs are made of experts ({part}), in a layout that is not known.",
    ),
    (r"per_layer_\w+:", "Its blocks get an input of their own beside the stream ({part})."),
)


def misfit(hf: Any) -> str | None:
    """A sentence about the part of a model that does not fit; None if none is known."""
    named = [(path, type(module).__name__) for path, module in hf.named_modules() if path]
    named += [(path, "number") for path, _ in hf.named_buffers()]
    inside = [(rest, kind) for path, kind in named if (rest := _in_block(path))]
    if _side_by_side({path for path, _ in named}):
        return (
            "Its blocks have an attention and a state-space layer side by side (`self_attn`, `mamba`), as Falcon-H1's: "
            "try load(…, anatomy='falcon_h1') and let lm.check() judge."
        )
    for table, modules in ((AROUND, named), (INSIDE, inside)):
        for pattern, words in table:
            for path, kind in modules:
                if re.search(pattern, f"{path}:{kind}"):
                    return words.format(part=f"`{path}`: {kind}")
    return None


def _side_by_side(paths: set[str]) -> bool:
    """Whether a block has both an attention and a state-space layer."""
    owners = (path.rpartition(".")[0] for path in paths if re.search(r"\.\d+\.mamba$", path))
    return any(f"{owner}.self_attn" in paths for owner in owners)


def _in_block(path: str) -> str:
    """A module's path from its block on (`model.layers.3.self_attn` → `self_attn`), "" if it is in none."""
    return re.sub(r"^.*?\.\d+\.", "", path) if re.search(r"\.\d+\.", path) else ""
