"""The contracts: what must hold on a model before its numbers can be believed (`lm.check()`, `veracausa check`).

Each contract is tested on the very model, on a prompt pair that it can read (the published indirect-object pair, or
random tokens), by running the engine and the bare Hugging Face model side by side. Errors are given in units of the
gap M(x) − M(x′). Tolerances: float64 1e-9 and float32 1e-4 of the gap; half types keep two to three digits in every
logit, so there 0.1 of the gap, which catches wrong wiring and nothing finer. A model of float64 weights with parts that
compute in float32 (`engine.precision`) is held to float32.

1. Hooked logits equal bare logits, bit for bit.
2. Embeddings + all heads' and MLPs' writes + output biases = the final residual.
3. A run of the suffix equals the full run, for any block and first position, with a patch; mixers go on from the state
   that they have come to, where their family's cache can (`engine.restart`).
4. Circuits: with all edges the clean run, with none the corrupted one, without one edge that edge's exact effect,
   without all edges out of a writer its write patched.
5. Integrated gradients of a layer sum to the effect of patching the whole layer. (Where MLPs have corners, no grid gets
   that exact: a ReLU's 512 nodes are held to 0.05 of the gap.)
6. EAP is the slope of the exact effect of an edge. (Rounding is divided by the step of a central difference: in float32
   they are known to ten times the tolerance, in half types to three times. ReLUs: 0.05 of the gap, as in 5.)
7. Sets of prompts of mixed length give what each prompt gives alone.
8. The same numbers for any chunk size and for eager and sdpa attention.
9. Exact effects equal those of whole-model forwards with one plain hook.
10. The model comes back as it was: hooks, gradients, training mode, attention implementation.
11. The logits that are read at the answer tokens equal the bare model's own.
12. A prompt longer than every length at which the model changes its behaviour (the window of its attention, the
   original length of its rotary embedding) gives what whole, unshared forwards of the bare model give: M of both runs
   and exact effects. Up to 1,024 tokens; the claim says how long the prompt was and which lengths it does not reach.
13. Gradients at readers, which come back through norms and projections in closed form, sum to the model's own gradient
   of the stream, hooks and adapters included.
14. Finished pieces in a folder are given out only to the model that made them: a hook makes another model.
15. What experts add and what their MLP gives without them sum to its output.
16. With all its adapters (LoRA) at zero a model is the one that they are on.

Where blocks have mixers in the place of attention, channels are tried, too.

Of a model that has no edges (`Decoder.lacks`) 4, 6 and 13 are not asked; of one without neurons 2 takes MLPs whole; of
one without experts that can be told apart 15 is not, nor 16 of one without adapters. The metric of a mixture of experts
jumps where their choice changes, on a path or in a step: so there 5 is about the last block's MLP, behind which nothing
is chosen, 6 is not asked, and 9 takes experts in the place of neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy import Block
from veracausa.anatomy.capped import has_cap
from veracausa.anatomy.packed import without_gradient
from veracausa.contracts.adapters import all_off_is_the_model_without, has_adapters
from veracausa.contracts.chosen import Chosen, middle_units, names, some_units
from veracausa.contracts.edges import circuits_equal_bare_runs, eap_is_the_slope, readers_sum_to_the_stream
from veracausa.contracts.experts import experts_equal_bare_runs, experts_sum_to_their_mlp
from veracausa.contracts.kept import kept_pieces_belong_to_their_model
from veracausa.contracts.long import long_prompts_equal_bare_runs, reach
from veracausa.contracts.pairs import gap_of, pair_for
from veracausa.effects.exact import exact
from veracausa.engine.attention import SUFFIX
from veracausa.engine.guard import alone, attention_function, attention_name, borrowed, hooks, precision_of
from veracausa.engine.measure import pair_ids, readout
from veracausa.engine.readout import Readout
from veracausa.engine.recording import record, record_pairs
from veracausa.engine.sharing import at_rest
from veracausa.engine.suffix import Join, sweep
from veracausa.engine.validate import tolerance
from veracausa.engine.watching import watch
from veracausa.errors import ContractError
from veracausa.estimates.attribute import attribute
from veracausa.model import Check
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    from veracausa.model import Model


@torch.inference_mode(False)
def check(lm: Model, *, strict: bool = True, pair: Task | None = None) -> list[Check]:
    """Test every contract on this very model (public as `lm.check()`).

    Args:
        lm: the model.
        strict: raise at the first contract that fails; else return all outcomes.
        pair: prompts to test on (default: the published indirect-object pair where the tokenizer can read it, else
            random tokens).

    Raises:
        ContractError: a contract fails; names it and its error.

    >>> for outcome in vc.load("smollm2-135m").check():
    ...     print(outcome)
    """
    with alone(lm.decoder):
        return _checked(lm, pair or pair_for(lm), strict)


def _checked(lm: Model, task: Task, strict: bool) -> list[Check]:
    """`check`, while no other thread has the model."""
    gap = gap_of(lm, task)
    before = _state(lm)
    outcomes = []
    for number, claim, test, bits in _CONTRACTS:
        if not _asked(lm, number):
            continue
        try:
            error = test(lm, task)
        except ContractError:  # the engine's own guards refuse this model, too
            error = float("inf")
        if number == 12:
            claim = f"{claim} ({reach(lm)})"
        outcome = Check(number, claim, error if bits else error / gap, 0.0 if bits else _allowed(lm, number))
        outcomes.append(outcome)
        if strict and not outcome.ok:
            raise ContractError(f"Contract {number} fails on {lm.name}: {claim}. {outcome}")
    changed = [what for what, was in before.items() if _state(lm)[what] != was]
    outcomes.append(Check(10, "The model comes back as it was", float(len(changed)), 0.0))
    outcomes.sort(key=lambda outcome: outcome.number)
    if strict and changed:
        raise ContractError(f"Contract 10 fails on {lm.name}: these changed: {', '.join(changed)}.")
    return outcomes


def _asked(lm: Model, number: int) -> bool:
    """Whether a contract is about something that the model has."""
    if number == 6 and lm.decoder.has_experts:
        return False
    if number == 16:
        return has_adapters(lm)
    if number in (5, 6, 13) and without_gradient(lm.hf):
        return False
    return not any(number in of and kind in lm.decoder.lacks for kind, of in _OF.items())


def _allowed(lm: Model, number: int) -> float:
    """The tolerance of a contract; see the module."""
    with attention_function(lm.decoder, "eager") if number == 8 else nullcontext():  # whose softmax may be in float32
        precision = precision_of(lm.decoder).dtype
    usual = tolerance(precision)
    if number in (5, 6) and lm.decoder.has_corners:
        return max(usual, _CORNERS[1])
    if number == 6:  # see `edge_contracts._STEPS`
        return usual * {64: 1, 32: 10}.get(torch.finfo(precision).bits, 3)
    return usual


def _state(lm: Model) -> dict[str, Any]:
    modules = list(lm.hf.modules())
    return {
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules),
        "training modes": [m.training for m in modules],
        "requires_grad": [p.requires_grad for p in lm.hf.parameters()],
        "gradients": [p.grad is None for p in lm.hf.parameters()],
        "attention implementation": attention_name(lm.decoder),
    }


def _hooked_equals_bare(lm: Model, task: Task) -> float:
    ids = pair_ids(lm, task, (0,))[0]
    from veracausa.engine.tape import State

    state = State(sites={site: [] for site in _sites(lm)})
    with borrowed(lm.decoder), torch.no_grad():
        at_rest(lm.decoder)
        bare = lm.hf(ids).logits
        at_rest(lm.decoder)
        with hooks(*watch(lm.decoder, state, [])):
            hooked = lm.hf(ids).logits
    return float((bare.double() - hooked.double()).abs().max())


def _read_logits_equal_bare(lm: Model, task: Task) -> float:
    """Logits read off the final residual against the whole bare model's, at the answers of both runs."""
    worst = 0.0
    tokens = torch.tensor([[*task.correct[0], *task.incorrect[0]]], device=lm.device)
    with borrowed(lm.decoder), torch.no_grad():
        for ids in pair_ids(lm, task, (0,)):
            at_rest(lm.decoder)
            bare = lm.hf(ids).logits[:, -1].gather(1, tokens)
            state, _ = record(lm.decoder, ids)
            worst = max(worst, float((lm.decoder.logits(state.last, tokens) - bare).abs().max()))
    return worst


def _writes_sum_to_residual(lm: Model, task: Task) -> float:
    """Largest error of the decomposed final residual, as an error of the metric it would cause."""
    ids = pair_ids(lm, task, (0,))[0]
    with borrowed(lm.decoder), torch.no_grad():
        state, _ = record(lm.decoder, ids, sites=_sites(lm))
        read = Readout.of(lm, task, (0,), state)
        total = state.residual[0].clone()
        for block in lm.decoder.blocks:
            # the maps go to the stream; what behind them makes a write of an output takes the output itself
            writes = []
            for one in block.mixers:
                site = "channels" if one.mixing == "mixer" else "z"
                attention = _heads_writes(lm, one, state.sites[site][block.layer]) + _or_nothing(one.head_map.bias)
                writes.append(one.attention_write(attention / one.attention_scale))
            total = sum(writes, total)
            if block.has_mlp:
                mlp = state.sites["mlp"][block.layer]
                if lm.neurons:
                    neurons = state.sites["neurons"][block.layer]
                    mlp = (neurons @ block.neuron_weights + _or_nothing(block.neuron_map.bias)) / block.mlp_scale
                total = total + block.mlp_write(mlp)
            total = block.ended(total, state.own_input(block.layer, slice(None), total.shape[1]))
        example = torch.zeros(1, dtype=torch.long, device=lm.device)
        return float((read(total[:, -read.tail :], example) - read.of_state(state)).abs().max())


def _heads_writes(lm: Model, block: Block, z: Tensor) -> Tensor:
    """The sum of what a block's heads write, or all channels of its mixer."""
    parts = block.heads if block.mixing == "attention" else 1
    split = z.unflatten(-1, (parts, -1))
    return torch.einsum("bshd,hdw->bsw", split, block.head_weights.reshape(parts, -1, lm.width))


def _sites(lm: Model) -> tuple[str, ...]:
    """What the contracts about whole runs watch."""
    mixers = ["channels", "mixed"] if lm.decoder.has_mixers else []
    return ("z", *(["neurons"] if lm.neurons else []), "attention", *mixers, "mlp")


def _or_nothing(bias: Tensor | None) -> Tensor | float:
    return 0.0 if bias is None else bias


def _suffix_equals_full(lm: Model, task: Task) -> float:
    """Patch the residual stream before a block from a position on: our suffix run against the whole model.

    Two rows, since of a single one mixers read all positions again.
    """
    decoder = lm.decoder
    clean, corrupted = pair_ids(lm, task, (0,))
    worst = 0.0
    with borrowed(decoder), torch.no_grad():
        tape = record_pairs(decoder, clean, corrupted, 0, examples=(0,))
        read = readout(lm, task, tape)
        example = torch.zeros(2, dtype=torch.long, device=lm.device)
        for layer in sorted({0, decoder.layers // 2, decoder.layers - 1}):
            for start in sorted({0, tape.length // 2, tape.length - 1} if decoder.anatomy.causal else {0}):
                patched = tape.clean.residual[layer].clone()
                patched[:, start:] = tape.corrupted.residual[layer][:, start:].flip(-1)
                with attention_function(decoder, SUFFIX):
                    join = Join(layer, False, example, lambda rows=patched[:, start:]: rows.repeat(2, 1, 1))  # type: ignore[misc]
                    ours = read(sweep(decoder, tape, tape.clean, [join], start=start), example)
                with _block_input(lm, layer, patched):
                    state, _ = record(decoder, clean)
                worst = max(worst, float((ours - read.of_state(state)).abs().max()))
    return worst


@contextmanager
def _block_input(lm: Model, layer: int, value: Tensor) -> Iterator[None]:
    """Let a block of the bare model read `value` instead of its input."""

    def replace(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (value, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": value}

    with hooks(lm.decoder.blocks[layer].module.register_forward_pre_hook(replace, with_kwargs=True)):
        yield


def _layer_is_complete(lm: Model, task: Task) -> float:
    middle = middle_units(lm)
    if lm.decoder.has_experts:
        last = lm.decoder.layers_with("mlp")[-1]
        told = last in lm.decoder.mixtures and "experts" not in lm.decoder.lacks
        middle = [f"m{last}.e{expert}" for expert in range(lm.experts)] if told else [f"m{last}"]
    nodes = _CORNERS[0] if lm.decoder.has_corners else _NODES[lm.decoder.has_mixers]
    scores = attribute(lm, task, units=middle, method="ig", nodes=nodes, show_progress=False)
    assert scores.completeness is not None
    return float(scores.completeness.residual.abs().max())


#: Contract 5: nodes, without mixers and with them (whose gate, step and state are multiplied).
_NODES = (32, 128)
#: Contract 5 where the metric has corners along the path: nodes, and what they leave of the gap.
_CORNERS = (512, 0.05)


def _effects(lm: Model, task: Task, **options: Any) -> Tensor:
    asked = [names(units) for units in some_units(lm)]
    return torch.cat([exact(lm, task, units=own, show_progress=False, **options).values for own in asked], 1)


def _mixed_lengths(lm: Model, task: Task) -> float:
    """Pairs of several lengths (the pair, and the pair without its first token) together and one by one."""
    mixed = (
        task
        if len(set(task.lengths)) > 1
        else Task(
            "mixed",
            (task.clean[0], task.clean[0][1:]),
            (task.corrupted[0], task.corrupted[0][1:]),
            (task.correct[0],) * 2,
            (task.incorrect[0],) * 2,
            task.metric,
        )
    )
    together = _effects(lm, mixed)
    return max(float((_effects(lm, mixed[i])[0] - together[i]).abs().max()) for i in range(2))


def _chunks_and_attention(lm: Model, task: Task) -> float:
    reference = _effects(lm, task)
    worst = float((_effects(lm, task, rows=1) - reference).abs().max())
    worst = max(worst, float((_effects(lm, task, share_prefix=False) - reference).abs().max()))
    for name in _other_implementations(lm):  # `reference` is of the user's own
        with attention_function(lm.decoder, name):
            worst = max(worst, float((_effects(lm, task) - reference).abs().max()))
    return worst


def _other_implementations(lm: Model) -> list[str]:
    """What else transformers can compute the same attention with."""
    if lm.decoder.anatomy.bridge is not None:  # it has one of its own
        return []
    sdpa = getattr(lm.hf, "_supports_sdpa", True) and not has_cap(lm.hf.config)
    known = ("eager", "sdpa") if sdpa else ("eager",)
    return [name for name in known if name != attention_name(lm.decoder)]


def _naive(lm: Model, task: Task) -> float:
    """Exact effects of some heads, channels and neurons by whole-model forwards with one hook each."""
    decoder = lm.decoder
    clean, corrupted = pair_ids(lm, task, (0,))
    middle, layers = lm.neurons // 2, decoder.layers_with("mlp") if lm.neurons else []
    neurons = [
        Chosen(f"m{layer}.n{middle}", layer, slice(middle, middle + 1), False)
        for layer in sorted({*layers[:1], *layers[-1:]})
    ]
    worst = 0.0 if "experts" in decoder.lacks else experts_equal_bare_runs(lm, task)
    with borrowed(decoder), torch.no_grad():
        other, _ = record(decoder, corrupted, sites=_sites(lm))
        state, _ = record(decoder, clean)
        read = Readout.of(lm, task, (0,), state)
        for units in (*some_units(lm), *([neurons] if neurons else [])):
            ours = exact(lm, task, units=names(units), show_progress=False)
            for unit, effect in zip(units, ours.values[0].tolist(), strict=True):
                module, site = _read_at(decoder.blocks[unit.layer], unit.name)
                with hooks(module.register_forward_pre_hook(_replacing(unit.columns, other.sites[site][unit.layer]))):
                    patched, _ = record(decoder, clean)
                worst = max(worst, abs(float(read.of_state(patched) - read.of_state(state)) - effect))
    return worst


def _read_at(block: Block, name: str) -> tuple[nn.Module, str]:
    """The output projection that reads a head, a channel or a neuron, and the site that holds what it reads."""
    if name.startswith("x"):
        assert block.mixer is not None
        return block.mixer.attention_out, "channels"
    return (block.attention_out, "z") if name.startswith("a") else (block.mlp_out, "neurons")


def _replacing(part: slice, new: Tensor) -> Callable[[Any, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def replace(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        value = args[0].clone()
        value[..., part] = new[..., part]
        return (value, *args[1:])

    return replace


#: (number, claim, test, whether it must hold bit for bit).
#: Kind of unit → contracts that are about it.
_OF = {"edges": (4, 6, 13), "experts": (15,)}

_CONTRACTS: tuple[tuple[int, str, Callable[[Model, Task], float], bool], ...] = (
    (1, "Hooked logits equal bare logits bit for bit", _hooked_equals_bare, True),
    (2, "Embeddings, writes and biases sum to the final residual", _writes_sum_to_residual, False),
    (3, "A suffix run equals the full run", _suffix_equals_full, False),
    (4, "Circuits equal bare runs with one edge or writer patched", circuits_equal_bare_runs, False),
    (5, "A layer's integrated gradients sum to the effect of patching it", _layer_is_complete, False),
    (6, "EAP is the slope of the exact effect of an edge", eap_is_the_slope, False),
    (7, "Mixed lengths give what each prompt gives alone", _mixed_lengths, False),
    (8, "Any chunk size and attention implementation give the same", _chunks_and_attention, False),
    (9, "Exact effects equal whole-model forwards with a hook", _naive, False),
    (11, "Logits read at the answers equal the bare model's", _read_logits_equal_bare, False),
    (12, "Long prompts equal whole bare forwards", long_prompts_equal_bare_runs, False),
    (13, "Gradients at readers sum to the stream's own gradient", readers_sum_to_the_stream, False),
    (14, "Kept pieces are given out only to the model that made them", kept_pieces_belong_to_their_model, True),
    (15, "What experts add sums to their MLP's output", experts_sum_to_their_mlp, False),
    (16, "With all adapters at zero it is the model without them", all_off_is_the_model_without, False),
)
