"""Which module of a Hugging Face model is which part of a decoder, and whether the model has all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from torch import nn

from veracausa.anatomy.anatomy import Anatomy, part_of
from veracausa.anatomy.block import Block
from veracausa.anatomy.block_parts import block_of
from veracausa.anatomy.decoder import Decoder
from veracausa.anatomy.families import FAMILIES
from veracausa.anatomy.found import Found
from veracausa.anatomy.lacking import joint_readers, lacks_of
from veracausa.anatomy.linear import numbers_of
from veracausa.anatomy.misfits import misfit
from veracausa.errors import ArchitectureError
from veracausa.suggestions import not_known

#: Fields of an anatomy that are numbers.
_COUNTS = ("position_offset", "attention_gives")


def _missing_parts(hf: Any, anatomy: Anatomy) -> list[str]:
    backbone = part_of(hf, anatomy.backbone)
    ends = {"backbone": backbone, "unembedding": part_of(hf, anatomy.unembedding)}
    if backbone is not None:
        ends |= {role: part_of(backbone, getattr(anatomy, role)) for role in ("blocks", "final_norm", "embeddings")}
    missing = [f"{role} (`{getattr(anatomy, role)}`)" for role, module in ends.items() if module is None]
    for layer, block in enumerate(ends.get("blocks") or ()):
        wanted = anatomy.block_parts(block)
        lacking = {role: path for role, path in wanted.items() if part_of(block, path) is None}
        if lacking:
            where = f" in block {layer}" if layer else ""
            paths = {role: path if isinstance(path, str) else " or ".join(path) for role, path in lacking.items()}
            missing += [f"{role} (`{path}`){where}" for role, path in paths.items()]
            break
    return missing


def require_family(family: str | Mapping[str, Any] | None) -> None:
    """Check that `family` is no name of an unknown one, before a model is loaded for it.

    Raises:
        ArchitectureError: it is.

    >>> require_family("llama")
    """
    if isinstance(family, str) and family not in FAMILIES:
        raise ArchitectureError(f"anatomy={family!r} is not a known family. Known: {', '.join(FAMILIES)}.")


def _anatomy_for(hf: Any, family: str | Mapping[str, Any] | None) -> Anatomy:
    model_type = getattr(getattr(hf, "config", None), "model_type", None)
    if isinstance(family, Mapping):
        return _own(family)
    if family is not None:
        require_family(family)
        return FAMILIES[family]
    if model_type not in FAMILIES:
        raise ArchitectureError(
            f"The architecture {model_type!r} ({type(hf).__name__}) is not among those that veracausa knows "
            f"(`veracausa models` lists them). {_why_unknown(hf)}"
        )
    return FAMILIES[model_type]


def _own(asked: Mapping[str, Any]) -> Anatomy:
    """A user's anatomy: the fields that differ from those of the family that it is `like` (default: Llama).

    Raises:
        ArchitectureError: no such field, no such family, or a value of another kind than the field's.
    """
    parts = {"like": "llama"} | dict(asked)
    like = parts.pop("like")
    if like not in FAMILIES:
        raise ArchitectureError(f"anatomy={{'like': {like!r}}}: {not_known('family', like, FAMILIES)}")
    known = {field.name: getattr(FAMILIES[like], field.name) for field in fields(Anatomy)}
    known = {name: own for name, own in known.items() if name not in ("family", "bridge", "mixer", "mixer_blocks")}
    for name, value in parts.items():
        if name not in known:
            raise ArchitectureError(f"anatomy={{{name!r}: …}}: {not_known('part', name, known)}")
        kinds = (bool, str) if name == "parallel" else (bool,) if isinstance(known[name], bool) else (str, tuple, list)
        if value is not None and not isinstance(value, (int,) if name in _COUNTS else kinds):
            raise ArchitectureError(
                f"anatomy={{{name!r}: {value!r}}}: it must be {' or '.join(kind.__name__ for kind in kinds)}, such as "
                f"{known[name]!r} of {like}."
            )
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in parts.items()}
    return replace(FAMILIES[like], family=f"own, like {like}", **given)


def _why_unknown(hf: Any) -> str:
    """What of a model of no known family does not fit, or what can be tried."""
    if (found := misfit(hf)) is not None:
        return found
    if lacks := _missing_parts(hf, FAMILIES["llama"]):
        return f"Seen as a Llama-like decoder it lacks {', '.join(lacks)}."
    return "It has the parts of a Llama-like decoder: try load(…, anatomy='llama') and let lm.check() judge."


def decoder_of(hf: Any, family: str | Mapping[str, Any] | Anatomy | None = None) -> Decoder:
    """Find the parts of a Hugging Face causal LM, `hf`, by the anatomy of its family.

    `family` overrides the lookup by `config.model_type`: the name of another family for models that share its layout,
    the fields in which a layout differs ({"like": "llama", "mlp_out": "mlp.c_proj"}), or a whole `Anatomy`.

    Raises:
        ArchitectureError: an unknown family, a missing part (named), cross-attention, a bidirectional decoder, blocks
            of several sizes.

    >>> decoder_of(hf).blocks[0].attention_out
    """
    anatomy = family if isinstance(family, Anatomy) else _anatomy_for(hf, family)
    _require_fitting(hf, anatomy)
    config, backbone = hf.config, part_of(hf, anatomy.backbone)
    embeddings, found = part_of(backbone, anatomy.embeddings), Found(hf)
    modules, width = part_of(backbone, anatomy.blocks), int(embeddings.weight.shape[1])
    attending = next((block for block in modules if anatomy.mixing(block) == "attention"), None)
    most = 0 if attending is None else int(config.num_attention_heads)

    def bound(layer: int, module: nn.Module) -> Block:
        attends = anatomy.mixing(module) == "attention"
        heads = _heads(anatomy, module, width) if attends and anatomy.heads_by_block else most
        kv_heads = _kv_heads(config, anatomy, module, width, heads) if attends else 0
        sizes = {"heads": heads, "kv_heads": kv_heads, "width": width}
        return block_of(anatomy, config, layer, module, found, sizes)

    blocks = tuple(bound(layer, module) for layer, module in enumerate(modules))
    _require_equal(hf, blocks)
    neurons = {0 if block.down is None else _inputs(block.down, width) for block in blocks if block.has_mlp}
    channels, mixer_heads, states = _mixer_sizes(hf, anatomy, blocks)
    lacks = lacks_of(anatomy, blocks, neurons)
    return Decoder(
        anatomy=anatomy,
        hf=hf,
        backbone=backbone,
        blocks=blocks,
        embeddings=embeddings,
        final_norm=part_of(backbone, anatomy.final_norm),
        unembedding=part_of(hf, anatomy.unembedding),
        heads=max(block.heads for block in blocks),
        kv_heads=max(block.kv_heads for block in blocks),
        head_dim=max(block.head_dim for block in blocks),
        width=width,
        neurons=0 if "neurons" in lacks else neurons.pop(),
        channels=channels,
        mixer_heads=mixer_heads,
        states=states,
        logit_softcap=getattr(config, anatomy.logit_softcap, None) if anatomy.logit_softcap else None,
        logit_scale=_factor(config, anatomy.logit_scale) / _factor(config, anatomy.logit_divisor),
        embedding_scale=_factor(config, anatomy.embedding_scale),
        joint=joint_readers(anatomy, blocks),
        lacks=lacks,
        found=found,
    )


def _mixer_sizes(hf: Any, anatomy: Anatomy, blocks: tuple[Block, ...]) -> tuple[int, int, int]:
    """Channels and heads of a mixer, and numbers in a channel's state; 0 where a model has none.

    Raises:
        ArchitectureError: they are not the same in all blocks.
    """
    found = {
        (
            _inputs(block.attention_out, block.width),
            int(getattr(block.attention, anatomy.mixer.heads)) if anatomy.mixer.heads else 0,
            int(getattr(block.attention, anatomy.mixer.state)) if anatomy.mixer.state else 1,
        )
        for block in (block.mixer for block in blocks)
        if anatomy.mixer is not None and block is not None
    }
    if len(found) > 1:
        raise ArchitectureError(f"{type(hf).__name__} has mixers of several sizes, which veracausa counts as one.")
    return found.pop() if found else (0, 0, 0)


def _require_fitting(hf: Any, anatomy: Anatomy) -> None:
    """Every part is there, and the config says nothing that the family's anatomy does not know."""
    name, config = type(hf).__name__, hf.config
    flags = anatomy.parallel if isinstance(anatomy.parallel, tuple) else (anatomy.parallel,)
    for setting in (*flags, anatomy.embedding_scale, anatomy.logit_scale, anatomy.logit_divisor):
        if isinstance(setting, str) and not hasattr(config, setting):
            raise ArchitectureError(
                f"The config of {name} has no {setting!r}, by which its anatomy says how it is glued."
            )
    for flag, what in (("add_cross_attention", "cross-attention"), ("use_bidirectional_attention", "bidirectional")):
        if getattr(config, flag, False) not in (False, None, "vision"):  # that is of images' tokens alone
            raise ArchitectureError(f"{name} has {flag}=True; veracausa knows no {what} decoders.")
    for setting, value, meaning in anatomy.must:
        if getattr(config, setting, value) != value:
            raise ArchitectureError(f"{name} has {setting}={getattr(config, setting)!r}: {meaning}.")
    width = getattr(part_of(hf, f"{anatomy.backbone}.{anatomy.embeddings}.weight"), "shape", (0, None))[1]
    if width is not None and getattr(config, "hidden_size", width) != width:
        raise ArchitectureError(
            f"{name} has embeddings of {width} numbers and a residual stream of {config.hidden_size}: a projection "
            "stands between them, for which veracausa has no name."
        )
    for path, what in anatomy.without:
        blocks = part_of(hf, f"{anatomy.backbone}.{anatomy.blocks}") or ()
        if any(part_of(block, path) is not None for block in blocks):
            raise ArchitectureError(f"{name} has {what} (`{path}`) in its blocks, which veracausa has no name for.")
    missing = _missing_parts(hf, anatomy)
    if missing:
        raise ArchitectureError(
            f"{name} is not a complete {anatomy.family} causal LM: it lacks {', '.join(missing)}. "
            "Pass the …ForCausalLM model, not its backbone, and unmodified."
        )


def _heads(anatomy: Anatomy, block: nn.Module, width: int) -> int:
    """How many heads a block has, where they differ by block."""
    return _inputs(part_of(block, anatomy.attention_out), width) // int(part_of(block, anatomy.attention).head_dim)


def _kv_heads(config: Any, anatomy: Anatomy, block: nn.Module, width: int, heads: int) -> int:
    """How many key/value heads a block has; of a fused projection its size says so, and where they differ by block."""
    if anatomy.qkv == "latent":
        return heads
    head_dim = _inputs(part_of(block, anatomy.attention_out), width) // heads
    if anatomy.qkv != "separate":
        return (_inputs(part_of(block, anatomy.q), width) // head_dim - heads) // 2
    if anatomy.reads_keys(block):
        return heads // int(part_of(block, anatomy.attention).num_key_value_groups)
    if anatomy.kv_heads_by_block:
        return _inputs(part_of(block, anatomy.v), width) // head_dim
    return int(getattr(config, "num_key_value_heads", None) or heads)


def _inputs(part: Any, width: int) -> int:
    """The other side of a linear map that the stream is on one side of."""
    return numbers_of(part) // width


def _factor(config: Any, name: str | None) -> float:
    return 1.0 if name is None else float(getattr(config, name))


def _require_equal(hf: Any, blocks: tuple[Block, ...]) -> None:
    """All blocks have so many heads; of one size, where their attention modules do not say the size."""
    attending = [block for block in blocks if block.mixing == "attention"]
    first = attending[0] if attending else None
    for block in attending:
        assert first is not None
        own = getattr(block.attention, "v_head_dim", None) or getattr(block.attention, "head_dim", None)
        if (
            block.qkv != "latent"
            and isinstance(own, int)
            and own * block.heads != _inputs(block.attention_out, block.width)
        ):
            raise ArchitectureError(
                f"{type(hf).__name__}: block {block.layer} has another number of heads than its config says "
                f"({block.heads}), and veracausa counts heads of one number and one size in all blocks."
            )
        if isinstance(own, int) and block.qkv != "latent":
            continue
        names = ("attention's output projection", "query projection", "key projection", "value projection")
        pairs = zip((block.attention_out, *block.projections), (first.attention_out, *first.projections), strict=True)
        for what, (one, other) in zip(names, pairs, strict=False):
            if numbers_of(one) != numbers_of(other):
                raise ArchitectureError(
                    f"{type(hf).__name__}: the {what} of block {block.layer} has another size than that of block "
                    f"{first.layer}, and veracausa counts heads of one number and one size in all blocks."
                )
