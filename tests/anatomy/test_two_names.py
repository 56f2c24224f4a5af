"""One and the same model under the names of two families: the anatomies differ, every number must be the same.

The weights of a model of one family are written into one of another that computes the same function with other modules:
fused projections apart, factors multiplied into weights, one norm twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny_models
import torch
from bridges import as_model

import veracausa as vc

#: Rounding of the same sums in another order, float64.
SAME = 1e-9


def _copied(hf: Any, weights: dict[str, torch.Tensor]) -> Any:
    missing, unexpected = hf.load_state_dict(weights, strict=False)
    assert not unexpected and all("rotary" in name for name in missing), (missing, unexpected)
    return hf


def phi3_as_llama(hf: Any) -> Any:
    """Fused query, key and value; fused gate and up projection."""
    weights = {}
    for name, weight in hf.state_dict().items():
        if "qkv_proj" in name:
            for part, own in zip(("q_proj", "k_proj", "v_proj"), weight.split([24, 12, 12]), strict=True):
                weights[name.replace("qkv_proj", part)] = own
        elif "gate_up_proj" in name:
            for part, own in zip(("gate_proj", "up_proj"), weight.chunk(2), strict=True):
                weights[name.replace("gate_up_proj", part)] = own
        else:
            weights[name] = weight
    return _copied(tiny_models.make("llama", head_dim=6), weights)


def granite_as_llama(hf: Any) -> Any:
    """Factors of the embeddings, of the scores, of every write and of the logits."""
    config, weights = hf.config, {name: weight.clone() for name, weight in hf.state_dict().items()}
    for name, weight in weights.items():
        if "o_proj" in name or "down_proj" in name:
            weight *= config.residual_multiplier
        elif "q_proj" in name:
            weight *= config.attention_multiplier * 6**0.5
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * config.embedding_multiplier
    weights["lm_head.weight"] = hf.lm_head.weight.detach() / config.logits_scaling
    return _copied(tiny_models.make("llama", head_dim=6, tie_word_embeddings=False), weights)


def phi_as_neox(hf: Any) -> Any:
    """Three projections in one, one norm in the place of two; the unembedding's bias, which GPT-NeoX lacks, is 0."""
    weights: dict[str, torch.Tensor] = {}
    torch.nn.init.zeros_(hf.lm_head.bias)
    ends = {"model.embed_tokens": "gpt_neox.embed_in", "model.final_layernorm": "gpt_neox.final_layer_norm"}
    names = {"dense": "attention.dense", "fc1": "mlp.dense_h_to_4h", "fc2": "mlp.dense_4h_to_h"}
    for name, weight in hf.state_dict().items():
        stem, end = name.rpartition(".")[::2]
        part, block = stem.rpartition(".")[2], ".".join(stem.split(".")[1:3])
        if part == "q_proj":
            heads = [hf.state_dict()[name.replace("q_proj", one)].unflatten(0, (4, 8)) for one in
                     ("q_proj", "k_proj", "v_proj")]  # fmt: skip
            weights[f"gpt_neox.{block}.attention.query_key_value.{end}"] = torch.stack(heads, 1).flatten(0, 2)
        elif part == "input_layernorm":
            weights |= {f"gpt_neox.{block}.{one}.{end}": weight for one in (part, "post_attention_layernorm")}
        elif part in names:
            weights[f"gpt_neox.{block}.{names[part]}.{end}"] = weight
        elif stem in ends:
            weights[f"{ends[stem]}.{end}"] = weight
        elif name == "lm_head.weight":
            weights[name] = weight
    return _copied(tiny_models.make("gpt_neox", hidden_act="gelu_new"), weights)


def opt_as_gpt2(hf: Any) -> Any:
    """An MLP that the block calls itself, positions behind two rows for none, linear maps the other way round."""
    weights, own = {}, hf.state_dict()
    weights["transformer.wte.weight"] = own["model.decoder.embed_tokens.weight"]
    weights["transformer.wpe.weight"] = own["model.decoder.embed_positions.weight"][2:]
    for end in ("weight", "bias"):
        weights[f"transformer.ln_f.{end}"] = own[f"model.decoder.final_layer_norm.{end}"]
        for layer in range(3):
            old, new = f"model.decoder.layers.{layer}", f"transformer.h.{layer}"
            weights[f"{new}.ln_1.{end}"] = own[f"{old}.self_attn_layer_norm.{end}"]
            weights[f"{new}.ln_2.{end}"] = own[f"{old}.final_layer_norm.{end}"]
            heads = torch.cat([own[f"{old}.self_attn.{one}.{end}"] for one in ("q_proj", "k_proj", "v_proj")])
            for name, weight in (
                ("attn.c_attn", heads),
                ("attn.c_proj", own[f"{old}.self_attn.out_proj.{end}"]),
                ("mlp.c_fc", own[f"{old}.fc1.{end}"]),
                ("mlp.c_proj", own[f"{old}.fc2.{end}"]),
            ):
                weights[f"{new}.{name}.{end}"] = weight.T if end == "weight" else weight
    weights["lm_head.weight"] = own["lm_head.weight"]
    return _copied(tiny_models.make("gpt2", activation_function="relu"), weights)


def bigcode_as_gpt2(hf: Any) -> Any:
    """All heads' queries, then the one key and value that all share: here a key and a value for each."""
    weights = {name: weight.clone() for name, weight in hf.state_dict().items()}
    for name, weight in hf.state_dict().items():
        if "c_attn" in name:
            query, key, value = weight.split([24, 6, 6])
            weights[name] = torch.cat([query, *[key] * 4, *[value] * 4])
    maps = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    weights = {name: weight.T if name.endswith(maps) else weight for name, weight in weights.items()}
    return _copied(tiny_models.make("gpt2", activation_function=hf.config.activation_function), weights)


CASES = {
    "phi3": phi3_as_llama, "granite": granite_as_llama, "phi": phi_as_neox, "opt": opt_as_gpt2,
    "gpt_bigcode": bigcode_as_gpt2,
}  # fmt: skip


@pytest.fixture(params=tiny_models.mostly_slow(CASES, ("phi", "granite")))
def both(request: pytest.FixtureRequest) -> tuple[vc.Model, vc.Model]:
    hf = tiny_models.make(request.param, seed=1)
    other = CASES[request.param](hf)
    ids = torch.tensor([[3, 14, 15, 9, 26, 5]])
    torch.testing.assert_close(hf(ids).logits, other(ids).logits, rtol=1e-10, atol=1e-10)
    return as_model(hf, request.param), as_model(other, "other")


def _same(both: tuple[vc.Model, vc.Model], ask: Callable[[vc.Model], torch.Tensor]) -> None:
    one, other = map(ask, both)
    assert one.abs().max() > 1e-3
    torch.testing.assert_close(one, other, rtol=SAME, atol=SAME * float(other.abs().max()))


@pytest.mark.cases(2)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("units", ["heads", "mlps", "neurons", "residual", "queries", "patterns", "edges"])
def test_exact_effects(both, task_of, units, direction):
    if units == "edges" and both[0].decoder.kv_heads != both[1].decoder.kv_heads:
        units = [f"{writer}->{reader}" for writer in ("input", "a0.h1", "m0", "a1.h3")
                 for reader in ("a2.h0<q>", "a2.h3<q>", "m2", "logits")]  # fmt: skip
    _same(both, lambda lm: vc.exact(lm, task_of(7), units=units, direction=direction, show_progress=False).values)


@pytest.mark.parametrize("method", ["atp", "ig", "gim", "relp", "conductance", "gradpath-complete"])
@pytest.mark.parametrize("units", ["heads", "neurons"])
def test_estimates_of_nodes(both, task_of, units, method):
    _same(both, lambda lm: vc.attribute(lm, task_of(7), units=units, method=method, show_progress=False).values)


@pytest.mark.parametrize("method", ["eap", "eap-ig", "eap-gp", "relp", "gim", "ifr"])
def test_estimates_of_edges(both, task_of, method):
    if both[0].decoder.kv_heads != both[1].decoder.kv_heads:
        pytest.skip("a key that all heads share has other edges than a key for each")
    if both[0].name == "granite" and method == "eap-gp":
        pytest.skip("its steps are those of the embeddings, which granite multiplies behind them")
    _same(both, lambda lm: vc.attribute(lm, task_of(7), units="edges", method=method, show_progress=False).values)


def test_circuits(both, task_of):
    if both[0].decoder.kv_heads != both[1].decoder.kv_heads:
        pytest.skip("a key that all heads share has other edges than a key for each")
    edges = vc.attribute(both[0], task_of(7), units="edges", method="eap", show_progress=False)
    names = vc.select(edges, n=40, how="abs").names

    def metric(lm: vc.Model, ablation: str) -> torch.Tensor:
        circuit = vc.Circuit.from_names(lm, names)
        return vc.faithfulness(lm, task_of(7), circuit, ablation=ablation, show_progress=False).metric

    for ablation in ("counterfactual", "zero", "mean"):
        _same(both, lambda lm, a=ablation: metric(lm, a))


def test_reading(both, task_of):
    """Constants apart: phi's unembedding has a bias, if one of 0."""

    def parts(lm: vc.Model) -> torch.Tensor:
        found = vc.reading.dla(lm, task_of(7), neurons=[1], show_progress=False)
        return found.values[..., [i for i, name in enumerate(found.names) if "bias" not in name]]

    _same(both, parts)


def test_where_the_curvature_is(both, task_of):
    task = task_of(7)[0]
    _same(both, lambda lm: vc.causes.locate(lm, task, units=["a0.h1", "a1.h2"], show_progress=False).runs)


def test_answers_under_ablation(both, task_of):
    """Several new tokens, MLPs, neurons and heads at once."""

    def metric(lm: vc.Model) -> torch.Tensor:
        found = vc.behaviour.ablation_study(
            lm, task_of(7), units=["m1", "a0.h1", "m2.n3"], ablations=["zero", "mean"], new_tokens=3,
            answers=[[[1]]] * len(task_of(7)), show_progress=False,
        )  # fmt: skip
        return found.metric

    _same(both, metric)
