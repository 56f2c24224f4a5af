"""`vc.causes.locate`: its accounts against whole-model runs, causes on models that can have only one, files, costs.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

import naive
import pytest
import tiny_models
import torch
from bridges import as_model, naive_metric

import veracausa as vc
from veracausa.errors import FileError, MethodError


def located(lm, task, units, **options):
    return vc.causes.locate(lm, task, units=units, show_progress=False, **options)


def naive_account(lm, task, example, unit):
    """⟨∂M/∂r_l, Δr_l⟩ before every block and at the end of the stream, by two whole forwards and one backward."""
    kept = {}

    def keep(which, grad):
        def edit(layer):
            def hook(module, args):
                stream = args[0]
                kept[which, layer] = stream
                if grad and stream.requires_grad:
                    stream.retain_grad()

            return hook

        modules = [block.module for block in lm.decoder.blocks] + [lm.decoder.final_norm]
        return [module.register_forward_pre_hook(edit(layer)) for layer, module in enumerate(modules)]

    ids = torch.tensor([task.clean[example]])
    handles = keep("clean", True)
    naive_metric(lm, task, example)(lm.hf(ids).logits[0, -1]).backward()
    for handle in handles:
        handle.remove()
    kind, layer, index, _ = unit
    site = naive.activations(lm.hf, lm.name, task.corrupted[example])[naive.SITE_OF[kind]][layer]
    handles = keep("patched", False)
    naive.run_patched(
        lm.hf, lm.name, task.clean[example], [(*unit, site[:, naive.where(lm.hf, kind, index, None, site.shape[1])[1]])]
    )
    for handle in handles:
        handle.remove()
    lm.hf.zero_grad()
    return torch.stack(
        [
            (kept["clean", at].grad * (kept["patched", at] - kept["clean", at])).sum().detach()
            for at in range(lm.layers + 1)
        ]
    )


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_sublayers_are_the_steps_of_the_first_order_account(tiny, task_of, agree, family):
    lm, task = tiny(family, fresh=True), task_of((6, 7), n=3)
    found = located(lm, task, ["a0.h1"])
    exact = vc.exact(lm, task, units=["a0.h1"], show_progress=False)
    ours = found.runs[0, 0] + found.sublayers[0].cumsum(0)  # behind the patch, a0, m0, a1, …
    for example in range(3):
        theirs = naive_account(lm, task, example, ("heads", 0, 1, None))
        agree(ours[2::2, example][: lm.layers], theirs[1:], exact.gap)
    agree(ours[-1], exact.values[:, 0], exact.gap)
    agree(found.by_kind().sum(1)[0], exact.values[:, 0] - found.runs[0, 0], exact.gap)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(["llama", "gpt2", "gemma3"], ("llama", "gemma3")))
def test_attention_as_the_model_reports_it(tiny, task_of, family):
    """Entropy and largest probability against the patterns that Hugging Face's eager attention returns."""
    lm, task = tiny(family, fresh=True, attn_implementation="eager"), task_of((6, 7), n=3)
    watched = located(lm, task, ["a0.h1"], alphas=(0.5,))["a0.h1"].saturation
    layer, head = map(int, watched.head[1:].split(".h"))
    for example in range(3):
        query = int(watched.query[example])
        other = naive.activations(lm.hf, family, task.corrupted[example])["z"][0]
        own = naive.activations(lm.hf, family, task.clean[example])["z"][0]
        columns = slice(lm.decoder.head_dim, 2 * lm.decoder.head_dim)
        runs = [(task.clean, None), (task.corrupted, None)]
        runs += [(task.clean, (own + alpha * (other - own))[:, columns]) for alpha in watched.alphas]
        for column, (prompts, value) in enumerate(runs):
            edits = [] if value is None else [("z", 0, _put(value, columns))]
            handles = [naive._hook(lm.hf, family, *edit) for edit in edits]
            with torch.no_grad():
                patterns = lm.hf(torch.tensor([prompts[example]]), output_attentions=True).attentions
            for handle in handles:
                handle.remove()
            pattern = patterns[layer][0, head, query]
            entropy = torch.special.entr(pattern).sum()
            torch.testing.assert_close(watched.entropy[example, column], entropy, rtol=0, atol=1e-9)
            torch.testing.assert_close(watched.largest[example, column], pattern.max(), rtol=0, atol=1e-9)
            assert int(watched.key[example, column]) == int(pattern.argmax())
        assert int(watched.visible[example]) == int((pattern > 0).sum())


def _put(value, columns):
    def edit(a):
        a = a.clone()
        a[:, columns] = value
        return a

    return edit


def only(kind):
    """A tiny Llama in which nothing behind layer 0's heads but one kind of part is nonlinear, the final norm aside."""
    hf = tiny_models.make("llama", seed=1)
    with torch.no_grad():
        for layer, block in enumerate(hf.model.layers):
            if kind != "MLP" or layer != 1:
                block.mlp.down_proj.weight.zero_()
            if layer and (kind != "softmax" or layer != 1):
                block.self_attn.o_proj.weight.zero_()
        if kind != "norm":  # one large constant coordinate, so that norms hardly change
            hf.model.embed_tokens.weight[:, 0] = 1e4
            for name, weight in hf.named_parameters():
                if "norm" in name:
                    weight.copy_(torch.full_like(weight, 1e4 / hf.config.hidden_size**0.5))
                    weight[0] = 1e-4
    return as_model(hf, "llama")


@pytest.mark.cases(2)
@pytest.mark.parametrize("kind", ["softmax", "norm", "MLP"])
def test_causes_of_models_that_can_have_only_one(task_of, kind):
    lm, task = only(kind), task_of(6, n=4)
    found = located(lm, task, [f"a0.h{head}" for head in range(lm.heads)])
    name = max(found, key=lambda unit: abs(found[unit].curvature.value / max(found[unit].curvature.stderr, 1e-12)))
    one = found[name]
    parts = {key: abs(share.value) for key, share in one.kinds.items()}
    assert abs(one.curvature.value) > 1e-3 and parts[kind] > 0.99 * sum(parts.values()), one
    assert one.cause == (kind if one.curvature.clear and one.kinds[kind].clear else "several")
    place = {"softmax": "a1", "norm": "logits", "MLP": "m1"}[kind]
    assert max(one.sublayers, key=lambda key: abs(one.sublayers[key].value)) == place
    assert place in one.sentence and name in one.sentence and "4 pairs" in one.sentence


@pytest.mark.cases(1)
@pytest.mark.parametrize(
    ("family", "metric", "units"),
    [("llama", "logit_diff", ["a0.h1", "a2.h0"]), ("gpt_neox", "prob", ["m1", "m2"]), ("llama", "logit_diff", ["r3"])],
    ids=str,
)
def test_planned_is_what_it_takes(tiny, task_of, monkeypatch, family, metric, units):
    lm, task = tiny(family), task_of((6, 7), n=3, metric=metric)
    assert located(lm, task, units).cost.token_layers == vc.causes.locate.work(lm, task, units=units).tokens()
    monkeypatch.setattr("veracausa.causes.locating.LocateWork.stays", False)  # recorded twice
    assert located(lm, task, units).cost.token_layers == vc.causes.locate.work(lm, task, units=units).tokens()


def test_files_and_finished_pieces(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 7), n=3)
    found = located(lm, task, ["a0.h1", "a2.h0"], out=tmp_path / "pieces")
    back = vc.open(found.save(tmp_path / "found.safetensors"))
    assert back.sentences == found.sentences and back.table().equals(found.table())
    assert back.describe() == found.describe() and repr(back) == repr(found)
    assert found["a2.h0"].saturation is None and back["a0.h1"].saturation.sentence
    again = located(lm, task, ["a0.h1", "a2.h0"], out=tmp_path / "pieces")
    assert torch.equal(again.runs, found.runs) and again.sentences == found.sentences
    (tmp_path / "found.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(FileError):
        vc.open(tmp_path / "found.safetensors")


@pytest.mark.slow
def test_a_real_model(smollm2, published, agree):
    """float32: 1e-4 of the gap, as for the other contracts on real weights."""
    found = located(smollm2, published, ["a23.h3"])
    exact = vc.exact(smollm2, published, units=["a23.h3"], show_progress=False)
    atp = vc.attribute(smollm2, published, units=["a23.h3"], show_progress=False)
    agree(found.runs[:, -1].T, exact.values, exact.gap, 1e-4)
    agree(found.runs[:, 0].T, atp.values, exact.gap, 1e-4)
    agree(found.sublayers.sum(1).T, exact.values - atp.values, exact.gap, 1e-4)
    assert "one pair: no error known" in found.sentences[0]


@pytest.mark.slow
def test_batches_change_nothing(tiny, task_of, agree, monkeypatch):
    lm, task = tiny("gemma3"), task_of((6, 7), n=3)
    found = located(lm, task, ["a0.h1", "a1.h0"], alphas=())
    monkeypatch.setattr("veracausa.causes.locating.rows_per_chunk", lambda *_, **__: 1)
    again = located(lm, task, ["a0.h1", "a1.h0"], alphas=())
    agree(again.runs, found.runs, found.gap)
    agree(again.heads, found.heads, found.gap)
    one = located(lm, task[2], ["a0.h1", "a1.h0"])
    agree(one.sublayers[..., 0], found.sublayers[..., 2], found.gap)


@pytest.mark.parametrize("units", [["a0.h1<q>"], ["a0.kv0<k>"], ["a0.h1@3"], ["a0.h1->m1"]], ids=str)
def test_units_that_it_does_not_take(tiny, task_of, units):
    with pytest.raises(MethodError, match="at all positions"):
        located(tiny("llama"), task_of(6), units)


def test_kl_has_no_slope(tiny, task_of):
    with pytest.raises(MethodError, match="logit_diff"):
        located(tiny("llama"), task_of(6, metric="neg_kl"), ["a0.h1"])


@pytest.mark.cases(1)
@pytest.mark.parametrize("site, writes", [("r1", None), ("m1", None), ("z1", None), ("n1", "m1")])
def test_features_are_located_between_attribution_patching_and_exact_effects(task_of, site, writes, tmp_path):
    """A part of a dictionary enters linearly where that writes, so its accounts are those of any unit."""
    from veracausa.dictionaries import Dictionary, Encoder

    lm, task = as_model(tiny_models.make("gemma2"), "gemma2"), task_of([6, 8], 2)
    g = torch.Generator().manual_seed(2)
    width = lm.heads * lm.decoder.head_dim if site[0] == "z" else lm.width
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    encoder = Encoder(draw(width, 9), draw(9), "topk", k=5)
    lm = lm.reading(Dictionary.of(encoder, draw(9, width) / 3, site=site, writes=writes))
    names = ["f1.error", "f1.0", "f1.4", "f1.7"]
    exact, atp = (call(lm, task, units=names, show_progress=False) for call in (vc.exact, vc.attribute))
    found = located(lm, task, names)
    torch.testing.assert_close(found.runs[:, -1].T, exact.values, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.runs[:, 0].T, atp.values, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.sublayers.sum(1).T, exact.values - atp.values, rtol=0, atol=1e-9)
    back = vc.open(found.save(tmp_path / "l.safetensors"))
    assert back.settings == found.settings and back.settings["dictionary_digest"]


def test_shares_of_the_way_lie_on_it(tiny, task_of):
    with pytest.raises(MethodError, match=r"alphas=\[2\.0\]: shares"):
        located(tiny("llama"), task_of(6), ["a0.h0"], alphas=(0.5, 2.0))
