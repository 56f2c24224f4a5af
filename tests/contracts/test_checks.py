"""The contracts hold on every family, and fail where something is wrong: a check that cannot fail checks nothing."""

import dataclasses

import numpy as np
import pytest
import tiny_models
import torch
from bridges import as_model
from torch import nn

import veracausa as vc
from veracausa.anatomy import Decoder, decoder_of
from veracausa.contracts import edges as edge_contracts
from veracausa.contracts.checks import check
from veracausa.contracts.edges import circuits_equal_bare_runs, eap_is_the_slope
from veracausa.engine.circuit_forward import CircuitForward
from veracausa.engine.validate import tolerance
from veracausa.errors import ContractError, NumericsError
from veracausa.model import Model
from veracausa.units.every_unit import all_edges

NUMBERS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


def test_all_are_tested(tiny):
    """That they hold in float64, family by family: `anatomy/test_families.py`."""
    assert [one.number for one in tiny("llama").check()] == NUMBERS


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox", "gpt2"])
def test_hold_in_float32(tiny, family):
    assert all(one.ok for one in tiny(family, dtype=torch.float32).check())


@pytest.mark.cases(1)
@pytest.mark.parametrize(("family", "seed"), [("llama", 27), ("gemma3", 14), ("gpt_neox", 11), ("gpt2", 27)])
def test_hold_in_bfloat16(task_of, family, seed):
    """Milder weights and a pair with a wide gap: bf16 rounds every logit to 3 digits, here 1e-2 of the gap."""
    hf = tiny_models.make(family, seed=1, dtype=torch.float32)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if not any(part in name for part in ("norm", "ln_", "embed", "wte", "wpe")):
                weight *= 0.5
    outcomes = check(as_model(hf.to(torch.bfloat16), family), pair=task_of(8, seed=seed))
    assert all(one.ok for one in outcomes)
    assert max(one.error for one in outcomes) < 0.04
    assert tolerance(torch.bfloat16) == tolerance(torch.float16) == 0.1


@pytest.mark.slow
@pytest.mark.parametrize("which", ["smollm2", "gemma3"])
def test_hold_on_real_weights(request, which):
    outcomes = request.getfixturevalue(which).check()
    assert [one.number for one in outcomes] == NUMBERS
    assert all(one.ok and one.tolerance <= (1e-3 if one.number == 6 else 1e-4) for one in outcomes)


def test_on_a_pair_of_ones_own(tiny, task_of):
    outcomes = check(tiny("qwen2"), pair=task_of((8,)))
    assert all(one.ok for one in outcomes)


def test_train_mode_with_dropout_is_checked_in_eval_mode():
    hf = tiny_models.make("gpt2", seed=1, resid_pdrop=0.5, attn_pdrop=0.5, embd_pdrop=0.5).train()
    assert all(one.ok for one in as_model(hf, "gpt2").check())
    assert hf.training


# ---- sabotage: mistakes that a family's entry, or a patched model, could really have --------------------------------


def sabotaged(family: str, *, blocks=None, **ends) -> Model:
    """A tiny model whose decoder is misread: `blocks` changes every block, `ends` the decoder."""
    hf = tiny_models.make(family, seed=1)
    decoder = decoder_of(hf)
    if blocks is not None:
        ends["blocks"] = tuple(dataclasses.replace(block, **blocks(block)) for block in decoder.blocks)
    return Model(hf, None, family, "sabotaged", dataclasses.replace(decoder, **ends))


SABOTAGE = {
    "parallel read as sequential": lambda: sabotaged("gpt_neox", blocks=lambda block: {"parallel": False}),
    "sequential read as parallel": lambda: sabotaged("llama", blocks=lambda block: {"parallel": True}),
    "another norm before the MLP": lambda: sabotaged("llama", blocks=lambda b: {"mlp_norm": b.attention_norm}),
    "another norm before the attention": lambda: sabotaged("gpt2", blocks=lambda b: {"attention_norm": b.mlp_norm}),
    "no post-norm of the attention": lambda: sabotaged("gemma2", blocks=lambda b: {"attention_post_norm": None}),
    "no post-norm of the MLP": lambda: sabotaged("gemma3", blocks=lambda b: {"mlp_post_norm": None}),
    "post-norms swapped": lambda: sabotaged(
        "gemma3",
        blocks=lambda b: {"attention_post_norm": b.mlp_post_norm, "mlp_post_norm": b.attention_post_norm},
    ),
    "no soft cap of the logits": lambda: sabotaged("gemma2", logit_softcap=None),
    "another soft cap": lambda: sabotaged("gemma2", logit_softcap=30.0),
    "a block left out": lambda: _without_a_block(),
    "an output projection that is no linear map": lambda: _with_hook("self_attn.o_proj", torch.relu),
    "a value projection that is no linear map": lambda: _with_hook("self_attn.v_proj", torch.relu),
    "a key projection that treats positions differently": lambda: _with_hook("self_attn.k_proj", _last_halved),
    "a norm that treats positions differently": lambda: _with_hook("input_layernorm", _last_halved),
    "scaled logits": lambda: _with_scaled_logits(),
    "another unembedding": lambda: _with_another_head(),
}


def _without_a_block() -> Model:
    hf = tiny_models.make("llama", seed=1)
    decoder: Decoder = decoder_of(hf)
    return Model(hf, None, "llama", "sabotaged", dataclasses.replace(decoder, blocks=decoder.blocks[:2]))


class _Adapted(nn.Module):
    """A linear map with a low-rank update beside it, as an unmerged adapter has."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(0)
        kind = {"generator": generator, "dtype": base.weight.dtype}
        self.down = nn.Parameter(torch.randn(base.in_features, 2, **kind))
        self.up = nn.Parameter(0.05 * torch.randn(2, base.out_features, **kind))

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        return self.base(x) + x @ self.down @ self.up


def _with_hook(part: str, change) -> Model:
    hf = tiny_models.make("llama", seed=1)
    for block in hf.model.layers:
        block.get_submodule(part).register_forward_hook(lambda module, args, output: change(output))
    return as_model(hf, "llama")


def _last_halved(output):
    return torch.cat([output[:, :-1], output[:, -1:] / 2], 1)


@pytest.mark.cases(1)
@pytest.mark.parametrize(("owner", "name"), [("self_attn", "o_proj"), ("mlp", "down_proj"), ("self_attn", "v_proj")])
def test_a_projection_that_is_more_than_its_weight_holds(owner, name):
    """What it does is read off the module: an adapter beside the weight is a part of the model."""
    hf = tiny_models.make("llama", seed=1)
    for block in hf.model.layers:
        setattr(getattr(block, owner), name, _Adapted(getattr(getattr(block, owner), name)))
    assert all(one.ok and one.tolerance <= 1e-9 for one in as_model(hf, "llama").check())


def _with_scaled_logits() -> Model:
    """A model whose own forward scales its logits, as Granite and Cohere do, read as a Llama."""
    hf = tiny_models.make("llama", seed=1)
    forward = hf.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits / 3
        return output

    hf.forward = scaled
    return as_model(hf, "llama")


def _with_another_head() -> Model:
    hf = tiny_models.make("llama", seed=1)
    decoder = decoder_of(hf)
    other = nn.Linear(24, tiny_models.VOCAB, bias=False, dtype=torch.float64)
    return Model(hf, None, "llama", "sabotaged", dataclasses.replace(decoder, unembedding=other))


@pytest.mark.parametrize("mistake", SABOTAGE)
def test_a_misread_model_fails(mistake):
    lm = SABOTAGE[mistake]()
    with pytest.raises(ContractError) as caught:
        lm.check()
    assert lm.name in str(caught.value)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_circuits_and_slopes_of_many_edges(tiny, task_of, family):
    """Contracts 4 and 6 on every sixth edge, those into the logits, and every writer: more than the check takes."""
    lm, task = tiny(family), task_of(7)
    size, gap = lm.graph.size, float(lm.measure(task).gap.abs().mean())
    edges = all_edges(lm)[np.unique([*range(0, size, 6), *range(size - lm.graph.writers, size)])]
    assert circuits_equal_bare_runs(lm, task, edges) < 1e-9 * gap
    assert eap_is_the_slope(lm, task, edges[::4]) < 1e-9 * gap


def test_a_circuit_or_score_that_is_off_fails(tiny, monkeypatch):
    """Contract 4 sees an error of a thousandth where edges are ablated, contract 6 the scores of another method."""
    lm = tiny("llama")
    run = CircuitForward.__call__

    def off(self, wiring, *rest):
        last = run(self, wiring, *rest)
        return last if wiring.mask.sum() == lm.graph.size else last + 0.001 * last.flip(-1)

    monkeypatch.setattr(CircuitForward, "__call__", off)
    with pytest.raises(ContractError, match="Contract 4"):
        lm.check()
    monkeypatch.undo()
    monkeypatch.setattr(
        edge_contracts, "attribute",
        lambda *args, **options: vc.attribute(*args, **(options | {"method": "relp"})),
    )  # fmt: skip
    with pytest.raises(ContractError, match="Contract 6"):
        lm.check()


def test_a_failed_contract_is_named_with_its_error():
    lm = sabotaged("gemma3", blocks=lambda b: {"mlp_post_norm": None})
    words = r"Contract 2 fails on gemma3: Embeddings, writes.*error \d.*tolerance 1e-09"
    with pytest.raises(ContractError, match=words):
        lm.check()


def test_not_strict_returns_every_outcome():
    lm = sabotaged("gemma2", blocks=lambda b: {"attention_post_norm": None})
    outcomes = lm.check(strict=False)
    assert [one.number for one in outcomes] == NUMBERS
    failed = [one for one in outcomes if not one.ok]
    assert failed and all("FAILS" in repr(one) for one in failed)


def test_exact_refuses_a_misread_model(task_of):
    """Also without lm.check(): nothing wrong is returned."""
    lm = sabotaged("gpt_neox", blocks=lambda block: {"parallel": False})
    with pytest.raises(ContractError, match=r"nothing is returned.*lm\.check\(\)"):
        vc.exact(lm, task_of(6), show_progress=False)


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.STRUCTURES, ("opt", "mixtral")))
def test_contracts_hold_in_every_structure(family):
    """What families lack is not asked; all else must hold."""
    lm = as_model(tiny_models.make(family, seed=1), family)
    lacking = {4, 6, 13} if "edges" in lm.decoder.lacks else set()
    lacking |= {6} if lm.decoder.has_experts else set()
    asked = [*NUMBERS, *([15] if lm.decoder.has_experts else [])]
    assert [one.number for one in lm.check()] == [one for one in asked if one not in lacking]


def test_nan_weights_are_a_numerics_error(tiny):
    lm = tiny("llama", fresh=True)
    with torch.no_grad():
        lm.hf.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="block 1"):
        lm.check()
