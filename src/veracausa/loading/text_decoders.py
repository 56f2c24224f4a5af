"""The text decoder inside a model that takes images or sound as well.

Such a model gives the decoder embeddings of its pixels or waves among those of its tokens. On text alone it is the
decoder and nothing else, so the decoder is taken out, with its own weights and the head behind it; nothing is copied.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from veracausa.errors import ArchitectureError

#: Tokens of the prompt on which both are compared.
_TOKENS = 5
#: What rounding may do: both run the same modules in the same order.
_ALLOWED = 1e-3


def text_decoder(hf: Any) -> tuple[Any, str]:
    """The causal language model inside, and a phrase for its source; the model itself and "" if it is no wrapper.

    The decoder shares its modules with the model, which is left as it was. A family that veracausa knows is never taken
    apart.

    Raises:
        ArchitectureError: text alone gives other logits in the whole model than in its decoder.

    >>> decoder, taken = text_decoder(LlavaForConditionalGeneration.from_pretrained(folder))
    >>> taken
    ', the text decoder of a LlavaForConditionalGeneration'
    """
    from veracausa.anatomy import FAMILIES

    if hf.config.model_type in FAMILIES:
        return hf, ""
    inside = [one for one in hf.modules() if one is not hf and _type_of(one) in FAMILIES]
    if len(inside) > 1:  # a causal language model and its own backbone
        inside = [one for one in inside if one.get_output_embeddings() is not None][:1] or inside[:1]
    if not inside:
        return hf, ""
    decoder = inside[0] if inside[0].get_output_embeddings() is not None else _with_head(inside[0], hf)
    if decoder is None:
        return hf, ""
    _require_same(hf, decoder, next(path for path, one in hf.named_modules() if one is inside[0]))
    return decoder, f", the text decoder of {'an' if type(hf).__name__[0] in 'AEIOU' else 'a'} {type(hf).__name__}"


def _type_of(module: Any) -> str | None:
    from transformers import PreTrainedModel

    return getattr(module.config, "model_type", None) if isinstance(module, PreTrainedModel) else None


def _with_head(backbone: Any, hf: Any) -> Any:
    """A causal language model of a backbone and the head of the model around it; None where that has other parts."""
    import torch
    from transformers import AutoModelForCausalLM

    from veracausa.anatomy import FAMILIES

    anatomy, head = FAMILIES[backbone.config.model_type], hf.get_output_embeddings()
    if head is None:
        return None
    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(backbone.config, dtype=hf.dtype)
    at, _, name = anatomy.backbone.rpartition(".")
    if type(decoder.get_submodule(anatomy.backbone)) is not type(backbone):
        return None
    setattr(decoder.get_submodule(at), name, backbone)
    decoder.set_output_embeddings(head)
    if any(one.is_meta for one in (*decoder.parameters(), *decoder.buffers())):
        return None
    decoder.generation_config, decoder.name_or_path = hf.generation_config, hf.name_or_path
    return decoder.train(hf.training)


def _require_same(hf: Any, decoder: Any, path: str) -> None:
    """Text alone gives the decoder's logits in the whole model, too, where that can be run on text alone."""
    import torch

    weight = decoder.get_input_embeddings().weight
    numbers = [one for name, one in hf.config.to_dict().items() if re.search(r"_(id|ids|index)$", name)]
    marks = {token for one in numbers for token in (one if isinstance(one, list | tuple) else [one])}
    plain = [token for token in range(1, len(weight)) if token not in marks][:_TOKENS]
    ids = torch.tensor([plain], device=weight.device)
    whole = None
    with torch.no_grad():
        with suppress(Exception):  # some ask for an image
            whole = hf(input_ids=ids, use_cache=False).logits
        if whole is None:
            return
        alone = decoder(input_ids=ids, use_cache=False).logits
    off, scale = float((whole - alone).abs().max()), 1 + float(whole.abs().max())
    if off > _ALLOWED * scale:
        raise ArchitectureError(
            f"The text decoder of this {type(hf).__name__} (`{path}`) gives other logits for a text than the whole "
            f"model (they differ by up to {off:.3g}): the model does something else with text, so its decoder alone is "
            "not it. Load a text-only checkpoint."
        )
