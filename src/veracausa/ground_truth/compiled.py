"""A decoder for compiled programs: transformers whose circuits are known because a compiler put them there.

tracr turns a RASP program into a transformer without norms: token and position embeddings, attention, ReLU MLPs, and an
unembedding that reads directions of the residual stream. `CompiledForCausalLM` is that transformer in the shape of a
Hugging Face decoder, so that the engine reads it like any other family (`anatomy`, "compiled").

Two things differ from a language model.

* *Attention looks both ways.* Nothing is hidden from a query. So clean and corrupted runs share no prefix.
* *A token's id says its word and its position*, id = position · words + word: token and position embeddings are one
  table and one writer, `input`. Attention without a mask treats a prompt as a set of such tokens, so their order in the
  prompt means nothing, and whichever position a metric reads can stand last, where metrics are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

if TYPE_CHECKING:
    from jaxtyping import Float, Int


class CompiledConfig(PreTrainedConfig):
    """Sizes of a compiled model. `vocab_size`: words × positions; `outputs`: rows of the unembedding."""

    model_type = "compiled"

    vocab_size: int = 1
    outputs: int = 1
    hidden_size: int = 1
    intermediate_size: int = 1
    num_hidden_layers: int = 1
    num_attention_heads: int = 1
    head_dim: int = 1


def eager_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads positions head_dim"],
    key: Float[Tensor, "rows heads positions head_dim"],
    value: Float[Tensor, "rows heads positions head_dim"],
    attention_mask: None,
    *,
    scaling: float,
    **_: Any,
) -> tuple[Float[Tensor, "rows positions heads head_dim"], Tensor]:
    """softmax(q kᵀ · scaling) v, every position looking at every other."""
    pattern = torch.softmax(query @ key.transpose(2, 3) * scaling, dim=-1)
    return (pattern @ value).transpose(1, 2), pattern


class CompiledAttention(nn.Module):
    """Attention without a mask and without biases, through transformers' switch for attention functions."""

    is_causal = False

    def __init__(self, config: CompiledConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.head_dim = config, layer, config.head_dim
        inner = config.num_attention_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def forward(
        self, hidden_states: Float[Tensor, "rows positions width"], past_key_values: Any = None, **kwargs: Any
    ) -> tuple[Float[Tensor, "rows positions width"], Tensor | None]:
        """The output of the output projection, and the pattern where the attention function gives one."""
        rows, positions = hidden_states.shape[:2]
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (
            project(hidden_states).view(rows, positions, -1, self.head_dim).transpose(1, 2) for project in projections
        )
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention)
        kwargs = {"attention_mask": None, "scaling": self.head_dim**-0.5, "is_causal": False} | kwargs
        z, pattern = attend(self, query, key, value, **kwargs)
        return self.o_proj(z.reshape(rows, positions, -1)), pattern


class CompiledMLP(nn.Module):
    """W_down ReLU(W_in x)."""

    def __init__(self, config: CompiledConfig):
        super().__init__()
        self.in_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.act_fn = nn.ReLU()
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """What the MLP adds to the stream."""
        return self.down_proj(self.act_fn(self.in_proj(hidden_states)))


class CompiledBlock(nn.Module):
    """Attention, then MLP, each added to the stream; the norms are identities."""

    def __init__(self, config: CompiledConfig, layer: int):
        super().__init__()
        self.input_layernorm = nn.Identity()
        self.self_attn = CompiledAttention(config, layer)
        self.post_attention_layernorm = nn.Identity()
        self.mlp = CompiledMLP(config)

    def forward(self, hidden_states: Tensor, past_key_values: Any = None) -> Tensor:
        """The residual stream behind the block."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), past_key_values=past_key_values)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class CompiledPreTrainedModel(PreTrainedModel):
    """What transformers needs to know of the family."""

    config_class = CompiledConfig
    base_model_prefix = "model"
    _supports_sdpa = True


class CompiledModel(CompiledPreTrainedModel):
    """Embeddings and blocks."""

    def __init__(self, config: CompiledConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(CompiledBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.Identity()
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "rows positions"] | None = None,
        inputs_embeds: Float[Tensor, "rows positions width"] | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> BaseModelOutputWithPast:
        """The final residual stream; prompts of one batch are equally long, since nothing masks padding."""
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            hidden_states = layer(hidden_states, past_key_values=past_key_values)
        return BaseModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states),
            past_key_values=past_key_values if use_cache else None,
        )


class CompiledForCausalLM(CompiledPreTrainedModel):
    """A compiled program with its unembedding; logits [rows, positions, outputs]."""

    def __init__(self, config: CompiledConfig):
        super().__init__(config)
        self.model = CompiledModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.outputs, bias=False)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The unembedding."""
        return self.lm_head

    def forward(
        self,
        input_ids: Int[Tensor, "rows positions"] | None = None,
        inputs_embeds: Float[Tensor, "rows positions width"] | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutputWithPast:
        """Logits of the last `logits_to_keep` positions, of all where it is 0."""
        output = self.model(input_ids, inputs_embeds, past_key_values, use_cache)
        hidden = output.last_hidden_state[:, -logits_to_keep:]
        return CausalLMOutputWithPast(logits=self.lm_head(hidden), past_key_values=output.past_key_values)
