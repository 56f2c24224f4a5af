"""Units of several layers in one run: sweeps and the model's own forward against naive joint patches.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

import naive
import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric

import veracausa as vc
from veracausa.cost import Cost
from veracausa.engine.attention import SUFFIX
from veracausa.engine.batches import buckets
from veracausa.engine.guard import attention_function, borrowed
from veracausa.engine.joint import Replaced, columns_of, constant, join_before, replacing, towards
from veracausa.engine.measure import pair_ids, readout
from veracausa.engine.patches import activation
from veracausa.engine.recording import record_pairs
from veracausa.engine.suffix import sweep
from veracausa.errors import MethodError
from veracausa.units.table import per_layer

#: Place → the kind whose units are its parts.
KIND = {"z": "heads", "neurons": "neurons", "mlp": "mlps"}
SITES = ("z", "attention", "neurons", "mlp")
#: (place, layer, index) and the same for the naive reference.
UNITS = [
    (("z", 0, 1), ("heads", 0, 1, None)),
    (("neurons", 0, 5), ("neurons", 0, 5, None)),
    (("z", 1, -1), ("attn", 1, None, None)),
    (("mlp", 1, -1), ("mlps", 1, None, None)),
    (("z", 2, 3), ("heads", 2, 3, None)),
]
SETS = [UNITS, UNITS[1:2] + UNITS[4:], UNITS[3:4], UNITS[4:]]


def naive_joint(lm, task, example, units):
    other = naive.activations(lm.hf, lm.name, task.corrupted[example])
    patches = []
    for kind, layer, index, position in units:
        site = other[naive.SITE_OF[kind]][layer]
        _, columns = naive.where(lm.hf, kind, index, position, site.shape[1])
        patches.append((kind, layer, index, position, site[:, columns]))
    logits = naive.run_patched(lm.hf, lm.name, task.clean[example], patches)[-1]
    return naive_metric(lm, task, example)(logits)


def columns(lm, place, layer, index):
    return columns_of(lm.decoder, place, layer, index, per_layer(lm, KIND[place]))


def recorded(lm, task):
    ((start, examples),) = buckets(lm.decoder, task, True, 8)
    ids = pair_ids(lm, task, examples)
    tape = record_pairs(lm.decoder, *ids, start, examples=examples, sites=SITES)
    return tape, readout(lm, task, tape)


def parts_of(lm, tape, chosen, value):
    found = []
    for (place, layer, index), _ in chosen:
        own, new = columns(lm, place, layer, index), activation(tape.corrupted, place, layer)
        found.append(Replaced(place, layer, value(new if own is None else new[..., own]), own))
    return found


@pytest.mark.parametrize("which", range(len(SETS)))
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_sweep(tiny, task_of, agree, family, which):
    lm, task = tiny(family), task_of(7)
    with borrowed(lm.decoder), torch.no_grad(), attention_function(lm.decoder, SUFFIX):
        tape, read = recorded(lm, task)
        example = torch.tensor([0, 0])
        share = torch.tensor([1.0, 0.0])  # the second row is left as it is
        parts = parts_of(lm, tape, SETS[which], lambda new: towards(new[example], share))
        with replacing(lm.decoder, parts):
            join = join_before(lm.decoder, tape.clean, parts, example, 0)
            cost = Cost()
            metric = read(sweep(lm.decoder, tape, tape.clean, [join], start=tape.start, cost=cost), example)
    assert cost.forward == 2 * (tape.length - tape.start) * (lm.layers - min(unit[0][1] for unit in SETS[which]))
    measured = lm.measure(task)
    theirs = naive_joint(lm, task, 0, [unit for _, unit in SETS[which]])
    agree(metric, torch.stack([theirs, measured.clean[0]]), measured.gap)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_models_own_forward(tiny, task_of, agree, family):
    """Whole prompts, and token by token behind the model's cache, where constants stay what they are."""
    lm, task = tiny(family), task_of(7)
    units = [(("z", 0, 1), ("heads", 0, 1, None)), (("mlp", 1, -1), ("mlps", 1, None, None))]
    generator = torch.Generator().manual_seed(0)
    sizes = (lm.decoder.head_dim, lm.width)
    values = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    parts = [
        Replaced(place, layer, constant(value[None, None]), columns(lm, place, layer, index))
        for ((place, layer, index), _), value in zip(units, values, strict=True)
    ]
    ids = torch.tensor([task.clean[0]])
    with borrowed(lm.decoder), torch.no_grad(), replacing(lm.decoder, parts):
        whole = lm.hf(ids).logits[0, -1]
        first = lm.hf(ids[:, :4], use_cache=True)
        for at in range(4, ids.shape[1]):
            first = lm.hf(ids[:, at : at + 1], past_key_values=first.past_key_values, use_cache=True)
    patches = [(*unit, value) for (_, unit), value in zip(units, values, strict=True)]
    theirs = naive.run_patched(lm.hf, family, task.clean[0], patches)[-1]
    read, gap = naive_metric(lm, task, 0), lm.measure(task).gap
    agree(read(whole), read(theirs), gap)
    agree(read(first.logits[0, -1]), read(theirs), gap)


def test_nothing_is_left_behind(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    ids = torch.tensor([task.clean[0]])
    before = lm.hf(ids).logits
    columns = columns_of(lm.decoder, "z", 0, 1, lm.heads)
    part = Replaced("z", 0, constant(torch.zeros(1, 1, lm.decoder.head_dim)), columns)
    both = [part, Replaced("keys", 0, part.value)]
    with pytest.raises(MethodError, match="one at a time"), replacing(lm.decoder, both):
        pass
    with pytest.raises(ZeroDivisionError), replacing(lm.decoder, [part]):
        assert not torch.equal(lm.hf(ids).logits, before)
        raise ZeroDivisionError
    assert torch.equal(lm.hf(ids).logits, before)


@pytest.mark.parametrize("family", ["mamba2", "bamba"])
def test_mixers_are_replaced_on_the_way(family, task_of):
    """Block 0 has a mixer and no attention: whole mixers and heads of them, against hooks on the bare model."""
    lm, task = as_model(tiny_models.make(family, seed=1), family), task_of(7)
    layers = lm.decoder.layers_with("mixer")
    size = lm.decoder.channels // lm.decoder.mixer_heads
    assert columns_of(lm.decoder, "channels", 0, 1, lm.decoder.mixer_heads).tolist() == [*range(size, 2 * size)]
    part = slice(size, 2 * size)

    def hooked(module, args):
        site = args[0].clone()
        site[..., part] = 0
        return (site, *args[1:])

    ids = torch.tensor([task.clean[0]])
    parts = [Replaced("channels", layers[0], constant(torch.zeros(1, 1, size)), torch.arange(size, 2 * size))]
    with torch.no_grad():
        before = lm.hf(ids, use_cache=False).logits
        handle = lm.decoder.blocks[layers[0]].attention_out.register_forward_pre_hook(hooked)
        theirs = lm.hf(ids, use_cache=False).logits
        handle.remove()
        with replacing(lm.decoder, parts):
            ours = lm.hf(ids, use_cache=False).logits
    assert torch.equal(ours, theirs) and not torch.equal(ours, before)
    table = vc.behaviour.ablation_study(
        lm, task, units=[f"x{layers[0]}.h1", f"x{layers[-1]}"], ablations=["zero"], show_progress=False
    )
    alone = vc.exact(lm, task, units=[f"x{layers[0]}.h1"], ablation="zero", show_progress=False)
    joint = vc.exact(lm, task, units=[(f"x{layers[0]}.h1", f"x{layers[-1]}")], ablation="zero", show_progress=False)
    moved = table.metric - table.metric[0]
    assert torch.allclose(moved[1], alone.values[:, 0].double(), atol=1e-5)
    assert torch.allclose(moved[3], joint.values[:, 0].double(), atol=1e-5)


@pytest.mark.parametrize("family", ["mamba", "bamba", pytest.param("recurrent_gemma", marks=pytest.mark.slow)])
def test_models_with_mixers_generate_what_whole_runs_do(family, task_of):
    """Token by token, every one by a whole run of the bare model; a mixer at zero stays so behind the prompt."""
    lm, task = as_model(tiny_models.make(family, seed=1), family), task_of(7)
    layer = lm.decoder.layers_with("mixer")[0]
    study = vc.behaviour.ablation_study(
        lm, task, units=[f"x{layer}"], ablations=["zero"], new_tokens=4, show_progress=False
    )
    out = lm.decoder.blocks[layer].attention_out
    for condition in (0, 1):
        tokens = torch.tensor(task.clean)
        handle = out.register_forward_pre_hook(lambda _, args, condition=condition: (args[0] * (1 - condition),))
        for _ in range(4):
            with torch.no_grad():
                last = lm.hf(input_ids=tokens, use_cache=False).logits[:, -1].argmax(-1)
            tokens = torch.cat([tokens, last[:, None]], 1)
        handle.remove()
        assert torch.equal(study.tokens[condition], tokens[:, 7:])
