"""Checks of a call about edges or circuits: what it assumes of modules holds in the runs that it recorded.

Beside what nodes assume (`validate.require_sites`): heads share a post-norm by its linear part, gradients come back
through norms by a closed form and through projections by their linear maps, circuits give each reader its own slice of
a projection. The modules themselves are the judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from veracausa.engine.guard import precision_of
from veracausa.engine.norms import norm_form
from veracausa.engine.validate import misread, off_map, require_sites, rounding
from veracausa.errors import ContractError

if TYPE_CHECKING:
    from veracausa.anatomy import Block, Decoder
    from veracausa.engine.tape import State, Tape
    from veracausa.model import Model

#: Recorded outputs of the query, key and value projection.
_OUTPUTS = ("q_out", "k_out", "v_out")


def require_edges(lm: Model, tape: Tape, *, gradients: bool = False, circuits: bool = False) -> None:
    """Writes, and for gradients at readers or for circuits also what readers take, are what the modules do.

    A circuit's projections are told by their maps with the constants, so there a constant at some positions only is
    refused, too.

    Raises:
        ContractError: names the block and the part.
    """
    for place in ("z", "channels", "mlp"):
        require_sites(lm, tape, place)
    precision, decoder = precision_of(lm.decoder).dtype, lm.decoder
    for block in decoder.blocks:
        found: list[tuple[str, float, float]] = []
        if block.attention_post_norm is not None:
            output = tape.clean.sites["attention"][block.layer]
            found.append(("The norm behind the attention", *_off_norm(decoder, block.attention_post_norm, output)))
        if gradients:
            for name, there, norm, stream in (
                (block.mixing, block.mixing != "nothing", block.attention_norm, tape.clean.residual[block.layer]),
                ("MLP", block.has_mlp, block.mlp_norm, tape.clean.middle[block.layer]),
            ):
                if there:
                    off = _off_norm(decoder, norm, block.rounded(norm, stream))
                    found.append((f"The norm before the {name}", *off))
        if gradients or circuits:
            found += _off_projections(decoder, block, tape, circuits)
        for part, error, scale in found:
            if not error <= rounding(precision, scale):
                raise ContractError(misread(lm, part, block, error))


@torch.no_grad()
def _off_projections(decoder: Decoder, block: Block, tape: Tape, constants: bool) -> list[tuple[str, float, float]]:
    def normed(state: State) -> Tensor:
        kept, layer = state.sites.get("attention_in"), block.layer
        found: Tensor = kept[layer] if kept else decoder.found.run(block.attention_norm, state.residual[layer])
        return found * block.given_scale

    runs = [(normed(state), state.sites) for state in (tape.clean, tape.corrupted)]
    found = []
    for module in dict.fromkeys(block.projections):
        kind = block.projections.index(module)
        ends = [(read, sites[_OUTPUTS[kind]][block.layer]) for read, sites in runs]
        name = block.projection_name(kind)
        found.append((f"The {name} projection", *off_map(decoder, module, block.projection(kind), ends, constants)))
    return found


def _off_norm(decoder: Decoder, norm: nn.Module, seen: Tensor) -> tuple[float, float]:
    """How far the module's output and a random product with its Jacobian are from those of its closed form.

    Of the first example that the norm sees in a call; `seen`: what it is given in a recorded run.
    """
    off: float = decoder.found.remembered("norm's error", norm, lambda: _norm_error(decoder, norm, seen[:1].detach()))
    return off, 1.0


def _norm_error(decoder: Decoder, norm: nn.Module, x: Tensor) -> float:
    form, wide = norm_form(decoder, norm), torch.promote_types(x.dtype, torch.float32)
    drawn = torch.randn(x.shape[-1], generator=torch.Generator().manual_seed(0)).to(x)
    with torch.enable_grad():
        x = x.clone().requires_grad_(True)
        output = decoder.found.run(norm, x)
        (judge,) = torch.autograd.grad(output, x, drawn.expand_as(output))
    with torch.no_grad():
        seen, written, judge = x.detach().to(wide), output.detach().to(wide), judge.to(wide)
        inverse = form.inverse(seen, written)
        back = form.pull_back(seen, inverse, drawn.to(wide).expand_as(seen)[None], False)[0]
        ours = form.linear(seen) * inverse + (0 if form.bias is None else form.bias)
        size, slope = written.abs().max().clamp_min(1e-6), judge.abs().max().clamp_min(1e-6)
        return max(float((ours - written).abs().max() / size), float((back - judge).abs().max() / slope))
