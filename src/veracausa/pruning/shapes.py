"""What a family's config lets a checkpoint be: how many layers, heads and neurons, and which maps have a bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from veracausa.errors import ArchitectureError
from veracausa.words import listed

if TYPE_CHECKING:
    from veracausa.model import Model


@dataclass(frozen=True)
class Shape:
    """Of one family: the config's names.

    `neurons`, `layers`: of the numbers. `heads`: whether the number of heads is free, with `head_dim` beside it; not
    where a head's width follows from the number, or where a norm goes over all heads. `attention_bias`, `mlp_bias`:
    whether the output projection and the down projection have one: always, never, or as that attribute says.
    """

    neurons: str = "intermediate_size"
    heads: bool = True
    layers: str = "num_hidden_layers"
    attention_bias: str | bool = False
    mlp_bias: str | bool = False


#: Type of a config → its shape. Each is tested: the export gives the logits of the model without the parts.
SHAPES: dict[str, Shape] = {
    "llama": Shape(attention_bias="attention_bias", mlp_bias="mlp_bias"),
    "granite": Shape(attention_bias="attention_bias", mlp_bias="mlp_bias"),
    "smollm3": Shape(attention_bias="attention_bias", mlp_bias="mlp_bias"),
    "mistral": Shape(),
    "qwen2": Shape(),
    "qwen3": Shape(attention_bias="attention_bias"),
    "gemma": Shape(attention_bias="attention_bias"),
    "gemma2": Shape(attention_bias="attention_bias"),
    "gemma3_text": Shape(attention_bias="attention_bias"),
    "olmo": Shape(attention_bias="attention_bias"),
    "olmo2": Shape(heads=False, attention_bias="attention_bias"),
    "stablelm": Shape(heads=False),
    "phi": Shape(attention_bias=True, mlp_bias=True),
    "phi3": Shape(heads=False),
    "gpt2": Shape("n_inner", heads=False, layers="n_layer", attention_bias=True, mlp_bias=True),
    "gpt_neox": Shape(heads=False, attention_bias="attention_bias", mlp_bias=True),
}


def shape_of(lm: Model) -> Shape:
    """The shape of a model's family.

    Raises:
        ArchitectureError: the family is not among those that can be exported, or this model has what its checkpoint
            could not hold.
    """
    kind = lm.hf.config.model_type
    if kind not in SHAPES:
        raise ArchitectureError(
            f"{lm.name} is a {kind}, and only these can be exported smaller: {listed(sorted(SHAPES))}. What the cut "
            "costs is known all the same; the model without its parts can be run inside this library."
        )
    if lm.decoder.adapters or lm.decoder.codes:
        raise ArchitectureError("Adapters or dictionaries are laid on this model; merge or remove them, then export.")
    return SHAPES[kind]


def with_biases(lm: Model, shape: Shape, attention: bool, mlp: bool) -> dict[str, Any]:
    """What must stand in the config so that output maps have the biases that means need.

    Raises:
        ArchitectureError: the family has none there.
    """
    found: dict[str, Any] = {}
    for wanted, flag, what in (
        (attention, shape.attention_bias, "output projection"), (mlp, shape.mlp_bias, "down projection"),
    ):  # fmt: skip
        if wanted and flag is False:
            raise ArchitectureError(
                f"Means of cut parts become a bias of the {what}, and checkpoints of {lm.hf.config.model_type} have "
                "none there. Cut with ablation='zero' to export."
            )
        if wanted and isinstance(flag, str):
            found[flag] = True
    return found
