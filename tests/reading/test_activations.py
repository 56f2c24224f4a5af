"""Activations of units against plain hooks on the Hugging Face model; where they are largest; files."""

import naive_features as plain
import numpy as np
import pytest
import torch
from bridges import as_model
from tiny_models import make

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.errors import FileError, UnitError

QUIET = {"show_progress": False}


def _dictionary(width, seed=5, size=9):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    w_enc, b_enc, w_dec, b_dec = draw(width, size), draw(size), draw(size, width), draw(width)
    ours = Dictionary.of(Encoder(w_enc, b_enc, "topk", k=3), w_dec, b_dec, site="r1")
    return ours, plain.Plain("topk", w_enc, b_enc, w_dec, b_dec, ("resid", 1), ("resid", 1), k=3)


def _stream(lm, ids, layer):
    """The input of a block, by a hook."""
    seen = {}
    blocks = {"gpt2": lambda: lm.hf.transformer.h}.get(lm.name, lambda: lm.hf.model.layers)()
    handle = blocks[layer].register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(x=args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        lm.hf(torch.tensor([ids]))
    handle.remove()
    return seen["x"][0]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_features_and_errors_are_what_hooks_and_an_encoder_of_our_own_give(family, task_of):
    lm, task = as_model(make(family), family), task_of([7, 9, 7], 3)
    ours, naive = _dictionary(lm.width)
    names = ["f1.error", "f1.4", "f1.0"]
    found = vc.reading.activations(lm, task, units=names, dictionary=ours, **QUIET)
    assert found.units.names == names and found.values.shape == (2, 3, 3, 9)
    for run, prompts in enumerate((task.clean, task.corrupted)):
        for example, ids in enumerate(prompts):
            x = _stream(lm, ids, 1)
            parts, own = naive.parts(x, x), found.values[run, example, :, : len(ids)]
            f = naive.encode(x)
            wanted = torch.stack([parts["error"].norm(dim=-1), f[:, 4], f[:, 0]])
            torch.testing.assert_close(own, wanted, rtol=0, atol=1e-9)
            assert found.values[run, example, :, len(ids) :].isnan().all()


def test_vectors_are_lengths_and_neurons_are_numbers(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, 2)
    block = lm.hf.model.layers[2].mlp
    seen = {}
    handle = block.down_proj.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    wrote = block.register_forward_hook(lambda _, __, output: seen.update(y=output))
    with torch.no_grad():
        lm.hf(torch.tensor(task.clean))
    handle.remove(), wrote.remove()
    neurons = vc.reading.activations(lm, task, units=["m2.n3"], **QUIET)
    whole = vc.reading.activations(lm, task, units=["m2"], **QUIET)
    torch.testing.assert_close(neurons.values[0, :, 0], seen["x"][..., 3], rtol=0, atol=1e-9)
    torch.testing.assert_close(whole.values[0, :, 0], seen["y"].norm(dim=-1), rtol=0, atol=1e-9)


def test_where_a_unit_is_largest_and_how_often_it_fires(task_of):
    lm, task = as_model(make("llama"), "llama"), task_of([7, 9, 7], 3)
    ours, _ = _dictionary(lm.width)
    found = vc.reading.activations(lm, task, dictionary=ours, **QUIET)
    values = found.values.double().numpy()
    table = found.table().set_index("name")
    for u, name in enumerate(found.units.names):
        best = np.nanmax(np.abs(values[:, :, u]))
        row = table.loc[name]
        assert abs(row["value"]) == best
        assert found.prompts[("clean", "corrupted").index(row["run"])][row["pair"]][row["position"]] == row["token"]
        own = values[0, :, u][~np.isnan(values[0, :, u])]
        assert row["fires clean"] == pytest.approx((own != 0).mean())
        ranked = found.strongest(name, 5)["value"].abs().tolist()
        assert ranked == sorted(ranked, reverse=True) and ranked[0] == best
    pair = found.pair(1)
    assert len(pair) == 2 * 9 and pair["f1.error"].iloc[0] == values[0, 1, found.units.find("f1.error"), 0]
    # What both prompts of a pair share is listed once.
    shared = task.first_difference[0]
    first = found.strongest("f1.error", 100)
    assert len(first[(first["pair"] == 0) & (first["position"] < shared)]) <= shared


def test_files_and_refusals(tmp_path, task_of):
    lm, task = as_model(make("llama"), "llama"), task_of([7, 9], 2)
    ours, _ = _dictionary(lm.width)
    found = vc.reading.activations(lm, task, dictionary=ours, **QUIET)
    back = vc.open(found.save(tmp_path / "a.safetensors"))
    assert torch.equal(back.values.nan_to_num(7), found.values.nan_to_num(7)) and back.prompts == found.prompts
    assert back.describe() == found.describe() and back.sentences == found.sentences
    assert isinstance(found, vc.Result) and found._repr_html_() and found.chart().to_dict()
    assert found.cost.token_layers == vc.forecast(vc.reading.activations, lm, task, dictionary=ours,
                                                  measure=False).token_layers  # fmt: skip
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(whole[:-9])
    with pytest.raises(FileError):
        vc.open(tmp_path / "b.safetensors")
    with pytest.raises(UnitError, match="single units at every position"):
        vc.reading.activations(lm, task, units="edges", **QUIET)
    with pytest.raises(UnitError, match="single units at every position"):
        vc.reading.activations(lm, task, units=["a0.h1@3"], **QUIET)
