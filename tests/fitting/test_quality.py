"""Quality against whole runs with hooks of the test's own; a perfect and an empty dictionary are 1 and 0."""

import pytest
import tiny_models
import torch
from bridges import as_model
from naive_features import hook

import veracausa as vc
from veracausa.errors import MethodError

PROMPTS = [(3, 7, 9, 11, 4), (5, 2, 8, 6, 1), (9, 9, 2)]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
def lm(request):
    return as_model(tiny_models.make(request.param), request.param)


def module(lm, site):
    """(module, whether its input is the site) by the family's own names."""
    name, blocks = lm.name, lm.decoder.blocks
    layers = {"gpt2": lambda: lm.hf.transformer.h, "gpt_neox": lambda: lm.hf.gpt_neox.layers,
              "opt": lambda: lm.hf.model.decoder.layers}.get(name, lambda: lm.hf.model.layers)()  # fmt: skip
    assert len(layers) == len(blocks)
    block = layers[1]
    attention = {"gpt2": lambda: block.attn.c_proj, "gpt_neox": lambda: block.attention.dense,
                 "opt": lambda: block.self_attn.out_proj}.get(name, lambda: block.self_attn.o_proj)()  # fmt: skip
    first, last = (block.fc1, block.fc2) if name == "opt" else (block.mlp, block.mlp)
    return {"r1": (block, True), "m1": (last, False), "a1": (attention, False), "z1": (attention, True),
            "n1": (first, True)}[site]  # fmt: skip


def losses(lm, site, change):
    """Cross-entropies with `change(y)` in the place of the site's activations."""
    part, before = (None, None) if site == "r1.mid" else module(lm, site)

    def give(value):
        if not isinstance(value, tuple):
            return change(value[None])[0] if value.ndim == 2 else change(value)  # OPT joins rows and positions
        return give(value[0]), *value[1:]

    if part is None:
        handle = hook(lm.hf, lm.name, ("mid", 1), lambda y: change(y[None])[0])
    elif before:
        handle = part.register_forward_pre_hook(lambda _, args: give(args))
    else:
        handle = part.register_forward_hook(lambda _, __, output: give(output))
    total = count = 0
    with torch.no_grad():
        for ids in PROMPTS:
            logits = lm.hf(torch.tensor([ids])).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum"))
            count += len(ids) - 1
    handle.remove()
    return total / count


def dictionary(lm, site, seed=0):
    g = torch.Generator().manual_seed(seed)
    width = lm.heads * lm.decoder.head_dim if site == "z1" else lm.width
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    return vc.dictionary(lm, {"W_enc": draw(width, 9), "W_dec": draw(9, width) / 5, "b_dec": draw(width), "k": 3}, site)


@pytest.mark.parametrize("site", ["r1", "m1", "a1", "z1", "r1.mid"])
def test_figures_are_those_of_whole_runs(lm, site):
    if site == "r1.mid" and lm.name in ("gpt_neox", "opt"):
        pytest.skip("attention and MLP side by side; no plain hooks for it")
    dic = dictionary(lm, site)
    found = dic.check(lm, PROMPTS)
    seen = []
    bare = losses(lm, site, lambda y: seen.append(y.flatten(0, -2)) or y)
    y = torch.cat([part[1:] for part in seen])  # without each prompt's first token
    mean = y.mean(0)
    assert found.cross_entropy == pytest.approx(bare, rel=1e-9)
    assert found.with_reconstruction == pytest.approx(losses(lm, site, dic.reconstruct), rel=1e-9)
    assert found.with_mean == pytest.approx(losses(lm, site, lambda y: mean.expand_as(y)), rel=1e-9)
    assert found.with_zero == pytest.approx(losses(lm, site, torch.zeros_like), rel=1e-9)
    wanted = 1 - float((y - dic.reconstruct(y)).square().sum() / (y - mean).square().sum())
    assert found.variance_explained == pytest.approx(wanted, rel=1e-9)
    assert found.active == pytest.approx(float((dic.encode(y) != 0).sum(-1).double().mean()))
    assert found.tokens == len(y) and found.residue < 1e-15 * 8


def test_a_transcoder_reads_one_site_and_writes_another(lm):
    g = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    parts = {"W_enc": draw(lm.width, 9), "W_dec": draw(9, lm.width), "W_skip": draw(lm.width, lm.width) / 9}
    dic = vc.dictionary(lm, parts, "n1", writes="m1")
    found = dic.check(lm, PROMPTS)
    given = []
    losses(lm, "n1", lambda x: given.append(x) or x)
    outputs = iter([dic.reconstruct(x) for x in given])
    assert found.with_reconstruction == pytest.approx(
        losses(lm, "m1", lambda y: next(outputs).reshape(y.shape)), rel=1e-9
    )


def test_all_directions_recover_everything(lm):
    dic = vc.directions(lm, torch.eye(lm.width), "r2")
    found = dic.check(lm, PROMPTS)
    assert found.variance_explained == pytest.approx(1) and found.recovered == pytest.approx(1)
    assert found.recovered_from_zero == pytest.approx(1) and found.active == lm.width and found.dead == 0


def test_a_dictionary_of_the_mean_alone_recovers_nothing(lm):
    seen = []
    losses(lm, "m1", lambda y: seen.append(y.flatten(0, -2)) or y)
    mean = torch.cat([part[1:] for part in seen]).mean(0)
    parts = {"W_enc": torch.zeros(lm.width, 2), "W_dec": torch.ones(2, lm.width), "b_dec": mean}
    found = vc.dictionary(lm, parts, "m1").check(lm, PROMPTS)
    assert found.variance_explained == pytest.approx(0, abs=1e-9) and found.recovered == pytest.approx(0, abs=1e-9)
    assert found.dead == 1 and found.active == 0


def test_a_tasks_gap_with_the_reconstruction_in_place(lm, task_of):
    task = task_of(6, n=5, seed=1)
    dic = dictionary(lm, "r1")
    found = dic.check(lm, task)
    part, before = module(lm, "r1")
    assert before
    gaps = []
    for put in (lambda y: y, dic.reconstruct):
        handle = part.register_forward_pre_hook(lambda _, args, put=put: (put(args[0]), *args[1:]))
        with torch.no_grad():
            for i in range(len(task)):
                logits = [lm.hf(torch.tensor([ids])).logits[0, -1] for ids in (task.clean[i], task.corrupted[i])]
                right, wrong = task.correct[i][0], task.incorrect[i][0]
                gaps.append(float((logits[0][right] - logits[0][wrong]) - (logits[1][right] - logits[1][wrong])))
        handle.remove()
    assert found.gap == pytest.approx(sum(gaps[: len(task)]) / len(task), rel=1e-9)
    assert found.gap_kept == pytest.approx(sum(gaps[len(task) :]) / len(task), rel=1e-9)


def test_it_is_shown_and_told(lm):
    found = dictionary(lm, "r1").check(lm, PROMPTS)
    assert "variance explained" in repr(found) and list(found.table().columns) == ["figure", "value", "what it is"]
    assert found.figures()["recovered"] == pytest.approx(found.recovered, abs=1e-4)
    with pytest.raises(MethodError, match="no text of at least two tokens"):
        dictionary(lm, "r1").check(lm, [])
