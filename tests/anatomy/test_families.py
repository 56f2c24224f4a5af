"""One class per family: what is special about it is written out by hand, and everything must hold of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import tiny_models
import torch
from torch import Tensor, nn

import veracausa as vc
from veracausa.anatomy import FAMILIES

#: A family with no real model behind it: programs of tracr.
COMPILED = "compiled"


class OfAFamily:
    """The suite. `model_type`: its entry in `FAMILIES`; the rest: what its blocks are like."""

    family: ClassVar[str]
    model_type: ClassVar[str]
    parallel = False
    gated = True
    query_norms = False
    post_norms = False
    softcap: ClassVar[float | None] = None
    learned_positions = False

    @pytest.fixture
    def lm(self, tiny: Callable[..., vc.Model]) -> vc.Model:
        return tiny(self.family)

    def test_it_is_bound_by_its_model_type(self, lm):
        assert lm.hf.config.model_type == self.model_type and lm.decoder.anatomy is FAMILIES[self.model_type]
        assert self.family.split("-")[0] in repr(lm) and "3 layers, 4 heads" in repr(lm)

    def test_sizes_are_the_configs(self, lm):
        decoder, config = lm.decoder, lm.hf.config
        assert (decoder.layers, decoder.heads, decoder.width) == (3, 4, config.hidden_size)
        assert decoder.kv_heads == (getattr(config, "num_key_value_heads", None) or 4)
        assert decoder.neurons == (getattr(config, "intermediate_size", None) or 40)
        assert decoder.head_dim == (getattr(config, "head_dim", None) or config.hidden_size // 4)

    def test_blocks_are_glued_as_the_family_does(self, lm):
        block = lm.decoder.blocks[1]
        assert block.parallel == self.parallel and (block.up is not None) == self.gated
        assert len(block.qk_norms) == 2 * self.query_norms
        for norm in (block.attention_post_norm, block.mlp_post_norm):
            assert (norm is not None) == self.post_norms
        assert lm.decoder.logit_softcap == self.softcap
        assert (lm.decoder.positions is not None) == self.learned_positions

    def test_weights_map_in_to_out(self, lm):
        """z @ W_O and neurons @ W_down, with their biases, are what the modules compute."""
        block = lm.decoder.blocks[1]
        for module, weight in ((block.attention_out, block.head_weights), (block.mlp_out, block.neuron_weights)):
            x = torch.randn(2, weight.shape[0], dtype=torch.float64)
            bias = module.bias if module.bias is not None else 0
            torch.testing.assert_close(x @ weight + bias, module(x), rtol=0, atol=1e-12)

    def test_projections_are_split_into_heads(self, lm):
        """Heads of queries, keys and values side by side are the projection's output, whole and in order."""
        block, width = lm.decoder.blocks[1], lm.width
        x = torch.randn(2, width, dtype=torch.float64)
        parts = [
            block.layout.projected(kind, self.projected(part, x), heads, lm.decoder.head_dim)
            for kind, (part, heads) in enumerate(
                zip(block.projections, (lm.heads, lm.kv_heads, lm.kv_heads), strict=True)
            )
        ]
        assert [part.shape[-2] for part in parts] == [lm.heads, lm.kv_heads, lm.kv_heads]
        for fused, part in zip(block.layout.fused(parts), block.projections, strict=True):
            torch.testing.assert_close(fused, self.projected(part, x), rtol=0, atol=0)

    @staticmethod
    def projected(part: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            return part(x)


class TestGPT2(OfAFamily):
    family, model_type = "gpt2", "gpt2"
    gated, learned_positions = False, True


class TestGPTNeoX(OfAFamily):
    family, model_type = "gpt_neox", "gpt_neox"
    gated, parallel = False, True


@pytest.mark.slow
class TestGPTNeoXOneAfterTheOther(OfAFamily):
    family, model_type = "gpt_neox-sequential", "gpt_neox"
    gated = False


class TestLlama(OfAFamily):
    family, model_type = "llama", "llama"


@pytest.mark.slow
class TestMistral(OfAFamily):
    family, model_type = "mistral", "mistral"


@pytest.mark.slow
class TestQwen2(OfAFamily):
    family, model_type = "qwen2", "qwen2"


class TestQwen3(OfAFamily):
    family, model_type = "qwen3", "qwen3"
    query_norms = True


@pytest.mark.slow
class TestSmolLM3(OfAFamily):
    family, model_type = "smollm3", "smollm3"


class TestGemma2(OfAFamily):
    family, model_type = "gemma2", "gemma2"
    post_norms, softcap = True, 10.0


class TestGemma3(OfAFamily):
    family, model_type = "gemma3", "gemma3_text"
    post_norms = query_norms = True


class TestGPTNeo(OfAFamily):
    family, model_type = "gpt_neo", "gpt_neo"
    gated, learned_positions = False, True


@pytest.mark.parametrize("of", tiny_models.mostly_slow([*tiny_models.FAMILIES, "gpt_neo"], ("gpt_neox", "gemma3")))
def test_contracts_hold(tiny, of):
    """Of llama and gemma2 in tests/contracts and tests/engine."""
    assert all(contract.ok and contract.tolerance <= 1e-9 for contract in tiny(of).check())


def test_every_family_has_its_class():
    suites = OfAFamily.__subclasses__()
    assert {suite.model_type for suite in suites} <= set(FAMILIES) - {COMPILED}  # others: see `test_two_names`
    assert [suite.family for suite in suites] == [*tiny_models.FAMILIES, "gpt_neo"]  # others: `test_bridges`
