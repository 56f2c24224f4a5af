"""Which module of a block is which of its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from veracausa.anatomy.anatomy import Anatomy, part_of
from veracausa.anatomy.beside import Beside, NormedMLPs, TwoMLPs, Unflattened
from veracausa.anatomy.block import Block, NoNorm, OwnMLP
from veracausa.anatomy.found import Found
from veracausa.anatomy.mixers import NoSublayer
from veracausa.anatomy.mixture import Mixture
from veracausa.anatomy.own_inputs import OwnInputs


def block_of(anatomy: Anatomy, config: Any, layer: int, module: nn.Module, found: Found, sizes: Any) -> Block:
    """One block's parts; see `Block`. `sizes`: heads, key/value heads and width of the model."""
    anatomy = anatomy.of(module)

    def part(role: str) -> Any:
        return part_of(module, getattr(anatomy, role))

    def norm_behind(role: str) -> nn.Module | None:
        norm = part(role)
        return None if type(norm) is nn.Identity else norm

    def number(role: str) -> float:
        return 1.0 if getattr(anatomy, role) is None else float(part(role))

    flags = (anatomy.parallel,) if isinstance(anatomy.parallel, str) else anatomy.parallel
    parallel = flags if isinstance(flags, bool) else any(getattr(config, flag) for flag in flags)
    found_block = Block(
        layer=layer,
        module=module,
        **_mixing_parts(anatomy, module, part),
        attention_bias=part("attention_bias"),
        qkv=anatomy.qkv,
        attention_post_norm=norm_behind("attention_post_norm"),
        **_mlp_parts(anatomy, module, part),
        up_fused=anatomy.up_fused,
        mlp_post_norm=norm_behind("mlp_post_norm"),
        qk_norms=tuple(norm for path in anatomy.qk_norms if (norm := part_of(module, path)) is not None),
        parallel=parallel,
        attention_factor=number("residual_scale") * number("attention_out_scale"),
        mlp_factor=number("residual_scale"),
        stream_scale=number("stream_scale"),
        given_scale=number("attention_in_scale"),
        down_scale=number("down_scale"),
        float32_stream=bool(getattr(config, anatomy.float32_stream)) if anatomy.float32_stream else False,
        own_inputs=_own_inputs(anatomy, module),
        reads_keys=anatomy.reads_keys(module),
        keys_named=None if anatomy.shared_keys is None else part_of(module, anatomy.shared_keys.named),
        mixture=_mixture(anatomy, config, module) if anatomy.has_mlp(module) else None,
        found=found,
        **sizes,
    )
    if not anatomy.both(module):
        return found_block
    return replace(found_block, beside=_beside(anatomy, module, found_block, number("mixer_out_scale")))


def _beside(anatomy: Anatomy, module: nn.Module, block: Block, factor: float) -> Block:
    """The mixer beside a block's attention, as a block without an MLP."""
    parts = _no_mlp() | {"mixture": None, "mlp_post_norm": None, "projections": (), "qk_norms": ()}
    parts |= {"attention_factor": block.mlp_factor * factor, "given_scale": 1.0, "heads": 0, "kv_heads": 0}
    return replace(block, **parts, **_mixer_parts(anatomy, module))


def _mixing_parts(anatomy: Anatomy, module: nn.Module, part: Callable[[str], Any]) -> Any:
    """What mixes a block's positions, its ends and the norm before it."""
    mixing = anatomy.mixing(module)
    if mixing == "nothing":
        none = NoSublayer()
        return {
            "mixing": mixing,
            "attention": none,
            "attention_out": none,
            "projections": (),
            "attention_norm": NoNorm(),
        }
    norm = NoNorm() if anatomy.attention_norm is None else part("attention_norm")
    if mixing == "mixer":
        return {**_mixer_parts(anatomy, module), "projections": (), "attention_norm": norm}
    parts = {"attention": part("attention"), "attention_out": part("attention_out")}
    projections = tuple(part(kind) for kind in ("q" if anatomy.reads_keys(module) else "qkv"))
    return {"mixing": mixing, **parts, "projections": projections, "attention_norm": norm}


def _mixer_parts(anatomy: Anatomy, module: nn.Module) -> dict[str, Any]:
    """A block's mixer, its output projection and its gate."""
    mixer = anatomy.mixer
    assert mixer is not None
    parts = {"attention": part_of(module, mixer.module), "attention_out": part_of(module, mixer.out)}
    if mixer.gate is not None:
        parts |= {"gate": part_of(module, mixer.gate[0]), "gate_behind": mixer.gate[1]}
    return {"mixing": "mixer", "goes_on": mixer.goes_on, **parts}


def _no_mlp() -> dict[str, Any]:
    """What stands where a block has no MLP."""
    none = NoSublayer()
    return {
        **dict.fromkeys(("mlp", "mlp_start", "mlp_end"), none),
        "mlp_norm": NoNorm(),
        **dict.fromkeys(("down", "acting", "up")),
    }


def _mlp_parts(anatomy: Anatomy, module: nn.Module, part: Callable[[str], Any]) -> Any:
    """A block's MLP, its parts and the norm before it."""
    names = {"down": "mlp_out", "acting": "activation", "up": "up"}
    if not anatomy.has_mlp(module):
        return _no_mlp()
    if anatomy.mlp is None:
        ends = {"mlp_start": part("mlp_in"), "mlp_end": part("mlp_out")}
        ends["mlp"] = OwnMLP(part("mlp_in"), part("activation"), part("mlp_out"))
    elif isinstance(anatomy.mlp_beside, Beside):
        if part_of(module, anatomy.mlp_beside.experts) is not None:
            both = NormedMLPs(module, part("mlp_norm"), part("mlp"), anatomy.mlp_beside)
            ends, names = {"mlp": both, "mlp_start": part("mlp"), "mlp_end": both.behind}, {}
        else:
            ends = dict.fromkeys(("mlp", "mlp_start", "mlp_end"), part("mlp"))
    elif (first := part("mlp_beside")) is not None and first is not part("mlp"):
        ends = {"mlp": TwoMLPs(first, part("mlp")), "mlp_start": first, "mlp_end": part("mlp")}
        names = {}
    else:
        ends = dict.fromkeys(("mlp", "mlp_start", "mlp_end"), part("mlp"))
    if anatomy.flattens and part("experts") is not None:
        ends["mlp"] = Unflattened(part("mlp"))
    parts = {"down": None, "acting": None, "up": None} | {name: part(role) for name, role in names.items()}
    norm = NoNorm() if anatomy.mlp_norm is None else part("mlp_norm")
    return {**ends, "mlp_norm": norm, **parts}


def _own_inputs(anatomy: Anatomy, module: nn.Module) -> OwnInputs | None:
    """What a block adds for an input of its own; None where it has none."""
    names = anatomy.own_input
    return None if names is None or part_of(module, names.gate) is None else OwnInputs(module, names)


def _mixture(anatomy: Anatomy, config: Any, module: nn.Module) -> Mixture | None:
    """The experts of one block; None where its MLP is not made of some."""
    experts, shared = part_of(module, anatomy.experts), part_of(module, anatomy.shared)
    if experts is None:
        return None
    scale = 1.0 if anatomy.experts_scale is None else float(part_of(module, anatomy.experts_scale))
    if shared is not None and anatomy.averaged is not None and getattr(config, anatomy.averaged) == "average":
        scale /= 2
    return Mixture(experts, part_of(module, anatomy.router), shared is not None, scale, anatomy.experts_down)
