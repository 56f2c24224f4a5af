"""Every call checks that the engine reads this very model right, before any number is returned.

The bare model is the judge: its own logits, and its own residual stream. A hook, an adapter or a scaling that the
engine cannot see shows here as a difference, and is an error instead of a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy.adapters import adapted_of
from veracausa.dictionaries.words import is_coded
from veracausa.engine.attention import SUFFIX
from veracausa.engine.carried import Carried, carrying
from veracausa.engine.coded import written_at
from veracausa.engine.guard import attention_function, changing, hooks, precision_of
from veracausa.engine.overrides import Override
from veracausa.engine.patches import CARRIED, OF_MLP, Place, rerouted
from veracausa.engine.suffix import through
from veracausa.errors import ContractError, NumericsError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from veracausa.anatomy import Block, Decoder
    from veracausa.anatomy.linear import LinearMap
    from veracausa.anatomy.mixture import Mixture
    from veracausa.engine.patches import Place
    from veracausa.engine.tape import State, Tape
    from veracausa.model import Model


def rounding(dtype: torch.dtype, scale: float, blocks: int = 1) -> float:
    """What rounding may do to a number of size `scale` on its way through `blocks` blocks that compute in `dtype`.

    Every block rounds the stream twice, each time as far as its size, so errors add up like a random walk. In bfloat16
    logits of one prompt, alone and in a batch, differ by 0.48 √(2 · blocks) eps of their deviation (random Llamas of 4
    to 96 blocks, 256 wide), the furthest of 4,096 by 0.35 to 0.4 √(2 · blocks) eps of 1 + the largest: √(2 · blocks) is
    allowed, and never less than 4. The wider types have room for any depth. `dtype` is that of the model's coarsest
    part (`precision`), which need not be that of its weights.
    """
    info = torch.finfo(dtype)
    return {64: 1e6, 32: 1e3}.get(info.bits, max(4.0, (2 * blocks) ** 0.5)) * info.eps * scale


def require_logits(lm: Model, state: State, tokens: Int[Tensor, "examples answers"]) -> None:
    """The logits that we read off the final residual are the bare model's, at the answer tokens (else the likeliest).

    Raises:
        NumericsError: they are not finite although the residual stream is.
        ContractError: they differ by more than rounding.
    """
    if state.logits is None:
        return
    if not tokens.shape[1]:
        tokens = state.logits.argmax(-1, keepdim=True)
    ours, bare = lm.decoder.logits(state.last.detach(), tokens), state.logits.detach().gather(1, tokens)
    if not (torch.isfinite(ours).all() and torch.isfinite(bare).all()):
        raise NumericsError(
            "NaN or infinity in the logits, although the residual stream is finite. Check the weights of the final "
            "norm and of the unembedding."
        )
    worst = float((ours - bare).abs().max())
    if not worst <= rounding(precision_of(lm.decoder).dtype, 1 + float(state.logits.abs().max())):
        raise ContractError(
            f"The logits that veracausa reads off {lm.name} differ from the bare model's by {worst:.3g}: the model "
            "scales or changes them in a way that the engine does not know (a hook on the unembedding, a logit scale), "
            "so nothing is returned. Run lm.check() and report what it prints."
        )


def require_run(lm: Model, ours: Float[Tensor, " examples"], bare: Float[Tensor, " examples"], clean: State) -> None:
    """M of the engine's unpatched run is M of the bare model's.

    Rounding in the residual stream moves all logits alike, so it is judged by the clean run's largest of all tokens.

    Raises:
        ContractError: they differ by more than rounding, so the engine misreads this model.
    """
    worst = float((ours - bare).abs().max())
    logits = lm.decoder.logits(clean.last) if clean.logits is None else clean.logits
    if not worst <= rounding(precision_of(lm.decoder).dtype, 1 + float(logits.abs().max()), lm.layers):
        half = torch.finfo(lm.dtype).bits == 16 and lm.decoder.has_experts
        why = (
            f"In {str(lm.dtype).removeprefix('torch.')} rounding alone can change which experts are chosen: load the "
            "model in float32."
            if half
            else "Run lm.check() and report what it prints."
        )
        raise ContractError(
            f"The engine's unpatched run of {lm.name} gives a metric that differs from the bare model's by "
            f"{worst:.3g}: its effects would be wrong, so nothing is returned. {why}"
        )


def require_sites(lm: Model, tape: Tape, place: Place) -> None:
    """What units at `place` write, by the linear map behind them, is what the stream receives.

    A patch changes the stream by Δ · W_O or Δ · W_down. The maps are read off the modules (`anatomy.linear`); here they
    are held against what the modules did in both recorded runs, at every position of every example. So a hook that
    works on some positions only, a factor behind the site or a family read wrong is an error, while a constant that a
    steering hook adds is part of the model.

    Raises:
        ContractError: names the block and the part.
    """
    if place == "residual":
        return
    if place == "adapters":
        require_adapters(lm)
        return
    if place == "gate":
        require_gates(lm, tape)
        return
    if place in CARRIED:
        require_carried(lm, tape, place)  # type: ignore[arg-type]
        return
    places = _under_dictionaries(lm.decoder, place) if is_coded(place) else dict.fromkeys(range(lm.layers), place)
    with torch.no_grad():
        for layer, own in places.items():
            block = lm.decoder.blocks[layer]
            part, error, allowed = _misread(lm.decoder, block, tape, own)
            if not error <= allowed:
                raise ContractError(misread(lm, part, block, error))


def keeping(part: nn.Module, scale: float, into: list[Tensor]) -> Any:
    """A hook that writes down what a module gives, times a factor."""
    return part.register_forward_hook(lambda _, __, output: into.append(scale * output))


@torch.no_grad()
def require_adapters(lm: Model) -> None:
    """What an adapted map gives, and what it gives without its adapters, differ by s · B(A x), at some random inputs.

    Raises:
        ContractError: names the block and the map.
    """
    for block in lm.decoder.blocks:
        for one in adapted_of(block).maps:
            like = next(one.module.parameters())
            drawn = torch.randn(2, 1, one.module.in_features, generator=torch.Generator().manual_seed(0))
            given, added = drawn.to(like.device, lm.dtype), list[Tensor]()
            with hooks(*(keeping(part, scale, added) for part, scale in one.adding)):
                output = one.module(given)
            error = float((output - one.module.base_layer(given) - torch.stack(added).sum(0)).abs().max())
            if not error <= rounding(precision_of(lm.decoder).dtype, float(output.abs().max()) + 1e-6):
                raise ContractError(misread(lm, f"The adapter on {one.name}", block, error))


@torch.no_grad()
def require_gates(lm: Model, tape: Tape) -> None:
    """A block whose mixer is given its own gate gives its own output, at both recorded runs of the first example.

    Raises:
        ContractError: names the block.
    """
    first = torch.tensor([0], device=lm.device)
    with attention_function(lm.decoder, SUFFIX):
        for block, mixer in ((b, b.mixer) for b in lm.decoder.blocks if b.mixer is not None and b.mixer.gate):
            for run in (tape.clean, tape.corrupted):
                own, stream = run.sites["gate"][block.layer][:1], run.residual[block.layer + 1][:1]
                taken = torch.ones_like(own, dtype=torch.bool)
                override = Override("gate", first, taken, lambda own=own: own)  # type: ignore[misc]
                again = through(tape, run, block, first, [override], start=tape.start)
                error = float((again - stream).abs().max())
                allowed = rounding(precision_of(lm.decoder).dtype, float(stream.abs().max()) + 1e-6)
                if not error <= allowed or mixer.gate_numbers.stop > getattr(mixer.gate, "out_features", 1 << 40):
                    raise ContractError(misread(lm, "The mixer's gate", block, error))


@torch.no_grad()
def require_carried(lm: Model, tape: Tape, what: Carried) -> None:
    """A mixer that carries its own state (or taps) away from a position writes behind it what it wrote.

    Asked at the middle of the first example of both recorded runs.

    Raises:
        ContractError: names the block.
        ArchitectureError: its convolution is not seen.
    """
    for block in (block.mixer for block in lm.decoder.blocks if block.mixer is not None):
        for run in (tape.clean, tape.corrupted):
            stream, call = run.residual[block.layer][:1], tape.call(block)
            middle = stream.shape[1] // 2
            own = block.attention_write(block.attended(stream, call))[:, middle:]
            error = float((carrying(block, stream, stream, call, middle - 1, what) - own).abs().max())
            if not error <= rounding(precision_of(lm.decoder).dtype, float(own.abs().max()) + 1e-6):
                raise ContractError(misread(lm, f"What the mixer carries (its {what})", block, error))


def _under_dictionaries(decoder: Decoder, place: Place) -> dict[int, Place]:
    """Layer → the place whose write is read off where a dictionary is patched; those of a block's input aside."""
    under: dict[str, Place] = dict.fromkeys(("z", "attention", "behind attention"), "z")
    under |= dict.fromkeys(("middle", "mlp", "behind mlp"), "mlp")
    under |= {"mlp": "neurons"} if place.startswith("components.") else {}
    return {
        layer: under[at]
        for (kind, layer), code in decoder.codes.items()
        if kind == place and (at := written_at(code)) in under
    }


def misread(lm: Model, part: str, block: Block, error: float) -> str:
    """The words for a part that does something else than the engine knows of."""
    return (
        f"{part} of block {block.layer} of {lm.name} does not do what veracausa reads off it (off by {error:.3g}), so "
        "numbers about it would be wrong and nothing is returned. Is there a hook on it, on the block or on what "
        "follows it, that treats positions or prompts differently, or an adapter of that kind? Remove it. If there "
        "is none, run lm.check() and report what it prints."
    )


#: Sites of a place's activations and of what the map behind them gives, where they are the place's own.
_ENDS = {"channels": ("channels", "mixed")}


def _misread(decoder: Decoder, block: Block, tape: Tape, place: Place) -> tuple[str, float, float]:
    """(part, largest error, what rounding may do) of one block's writes."""
    layer, attention, runs = (
        block.layer,
        place not in ("neurons", "mlp", "router", *OF_MLP),
        (tape.clean, tape.corrupted),
    )
    precision = precision_of(decoder).dtype
    beside = len(block.mixers) > 1
    site, out = _ENDS.get(place, ("z", "attention") if attention else ("neurons", "mlp"))
    if attention:
        mixing = "mixer" if place == "channels" else "attention"
        own = next((one for one in block.mixers if one.mixing == mixing), None)
        if own is None:
            return "What is not there", 0.0, 1.0
        block = own
    elif not block.has_mlp:
        return "What is not there", 0.0, 1.0
    shortest = min(run.residual[0].shape[1] for run in runs)  # where prompts have different lengths
    if place in OF_MLP and block.mixture is not None:
        error, allowed = unrouted(decoder, block, block.mixture, runs)
        if place == "expert_neurons" and error <= allowed:
            error, allowed = unmapped(decoder, block, block.mixture, runs)
        if not error <= allowed:
            return "The mixture of experts", error, allowed
    if place == "router" and block.mixture is not None:
        error, allowed = unsteered(decoder, block, runs)
        if not error <= allowed:
            return "The router", error, allowed
    if place not in ("mlp", "router", *OF_MLP):
        read, module = (block.head_map, block.attention_out) if attention else (block.neuron_map, block.mlp_out)
        factor = block.attention_scale if attention else block.mlp_scale
        ends = [(run.sites[site][layer][:, :shortest], run.sites[out][layer][:, :shortest] * factor) for run in runs]
        error, scale = off_map(decoder, module, read, ends)
        if not error <= rounding(precision, scale):
            part = f"The {'attention output' if attention else 'down'} projection"
            return part, error, rounding(precision, scale)
    if block.parallel and not attention:
        return "The MLP", 0.0, 1.0  # the attention writes at the same time; `require_run` sees the sum
    if attention and beside:
        return "The attention", 0.0, 1.0  # so does the mixer beside it
    # Of a parallel block the whole MLP must be run, so there two positions must do.
    at = [0, shortest - 1] if block.parallel else slice(shortest)
    output = _firsts(runs, lambda state: state.sites[out][layer], at)
    early = attention or block.parallel
    before = _firsts(runs, lambda state: state.residual[layer] if early else state.middle[layer], at)
    late = not attention or block.parallel
    after = _firsts(runs, lambda state: state.residual[layer + 1] if late else state.middle[layer], at)
    new = before + (block.attention_write(output) if attention else block.mlp_write(output))
    if block.parallel:
        new = new + block.feed_forward(before)
    if late:
        given = _firsts(runs, lambda state: state.given[layer], at) if block.own_inputs is not None else None
        new = block.ended(new, given)
    error = float(((new[0] - new[1]) - (after[0] - after[1])).abs().max())
    return "The attention" if attention else "The MLP", error, rounding(precision, float(after.abs().max()) + 1e-6)


def unrouted(decoder: Decoder, block: Block, mixture: Mixture, runs: Sequence[State]) -> tuple[float, float]:
    """How far what experts add, and what the MLP gives without them, are from adding up to its output.

    (largest error, what rounding may do) at the first and the last position of the first example of each run.
    """
    layer, ends = block.layer, [0, -1]
    read = _firsts(runs, lambda state: (state.residual if block.parallel else state.middle)[layer], ends)
    output = _firsts(runs, lambda state: state.sites["mlp"][layer], ends)
    added = _firsts(runs, lambda state: state.sites["experts"][layer].sum(2), ends)
    with hooks(changing(mixture.experts, torch.zeros_like)):
        without = block.run_mlp(block.mlp_norm(read))
    scale = float(torch.stack([output.abs().max(), added.abs().max()]).max()) + 1e-6
    return float((output - added - without).abs().max()), rounding(precision_of(decoder).dtype, scale)


def unmapped(decoder: Decoder, block: Block, mixture: Mixture, runs: Sequence[State]) -> tuple[float, float]:
    """How far what the neurons of chosen experts write is from what these experts add, and what rounding may do.

    At the ends of the first example of each run. A bias behind the down projection is of no neuron.
    """
    sites = ("inside", "weights", "choice", "experts")
    inside, weights, choice, added = (
        torch.stack([run.sites[site][block.layer][0, [0, -1]] for run in runs]).flatten(0, 2) for site in sites
    )
    neuron = torch.arange(mixture.neurons, device=choice.device)
    maps = mixture.written(*(one.flatten() for one in torch.broadcast_tensors(choice[:, None], neuron)))
    written = torch.einsum("cn,cnw->cw", inside, maps.unflatten(0, (len(choice), -1)))
    bias = getattr(mixture.experts, "down_proj_bias", None)
    constant = 0.0 if bias is None else mixture.scale * bias[choice]
    scale = float(added.abs().max()) + 1e-6
    error = float((weights[:, None] * (written + constant) - added).abs().max())
    return error, rounding(precision_of(decoder).dtype, scale)


def unsteered(decoder: Decoder, block: Block, runs: Sequence[State]) -> tuple[float, float]:
    """How far an MLP whose router is given its own logits is from its output, and what rounding may do."""
    layer = block.layer
    first = torch.tensor([0], device=runs[0].residual[0].device)
    off = [rerouted(block, run, first, 0, torch.zeros_like(run.sites["router"][layer][:1])) for run in runs]
    scale = max(float(run.sites["mlp"][layer].abs().max()) for run in runs) + 1e-6
    return max(float(one.abs().max()) for one in off), rounding(precision_of(decoder).dtype, scale)


def off_map(
    decoder: Decoder,
    part: nn.Module,
    own: LinearMap,
    runs: Sequence[tuple[Float[Tensor, "examples positions inputs"], Float[Tensor, "examples positions outputs"]]],
    constants: bool = False,
) -> tuple[float, float]:
    """How far outputs are from the map of their inputs, and how large they are, over all examples and positions.

    Both sides are compared along one random direction r of length 1: y · r against x · (W r), so that all of them cost
    one product of the weights with a vector, once a call. A constant of its own at a position, the same in all runs, is
    allowed unless `constants` are asked for; where all runs have the same input it cannot be told from a factor, and
    is not.
    """

    @torch.no_grad()
    def product() -> tuple[Tensor, Tensor, Tensor | float]:
        drawn = torch.randn(own.weight.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        direction = (drawn / drawn.norm()).to(own.weight.device, wide)
        shift = 0.0 if own.bias is None else own.bias.to(wide) @ direction
        return direction, own.weight.to(wide) @ direction, shift

    wide = torch.promote_types(own.weight.dtype, torch.float32)
    direction, along, shift = decoder.found.remembered("product with a direction", part, product)
    with torch.no_grad():
        errors = torch.cat([y.to(wide) @ direction - x.to(wide) @ along - shift for x, y in runs])
        scale = float(torch.stack([y.abs().max() for _, y in runs]).max()) + 1e-6
        largest = float(errors.abs().max())
        if constants or largest <= rounding(precision_of(decoder).dtype, scale):
            return largest, scale
        first = runs[0][0][:1]
        same = torch.stack([(x == first).all(-1).all(0) for x, _ in runs]).all(0)
        spread = errors.amax(0) - errors.amin(0)
        return float(torch.where(same, errors.abs().amax(0), spread).max()), scale


def _firsts(runs: Sequence[State], of: Callable[[State], Tensor], at: Any) -> Float[Tensor, "run positions width"]:
    """Activations of the first example of each run."""
    return torch.stack([of(state)[0, at].detach() for state in runs])


def tolerance(dtype: torch.dtype) -> float:
    """What rounding may do to an effect, as a share of the gap."""
    return {torch.float64: 1e-9, torch.float32: 1e-4}.get(dtype, 0.1)
