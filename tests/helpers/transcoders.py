"""Random transcoders of tiny models, and a task to build attribution graphs of."""

import torch
from tiny_models import VOCAB, pairs

from veracausa.dictionaries import Dictionary, Encoder, Onward
from veracausa.tasks.task import Task


def transcoder(width, layer, kind="relu", *, skip=False, read="n", post="", size=14, **more):
    """One transcoder of an MLP; the same numbers for the same layer."""
    g = torch.Generator().manual_seed(layer)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    own = {"jumprelu": {"threshold": draw(size).abs()}, "topk": {"k": 4}}.get(kind, {})
    encoder = Encoder(draw(width, size), draw(size) / 4, kind, before=draw(width) / 4, **own)
    through = draw(width, width) / 4 if skip else None
    return Dictionary.of(
        encoder,
        draw(size, width) / 4,
        draw(width),
        site=f"{read}{layer}",
        writes=f"m{layer}{post}",
        skip=through,
        **more,
    )


def cross_layer(width, layers, kind="relu", *, reads="n", post="", size=10):
    """A cross-layer transcoder of all layers, and the same as plain tensors (`naive_cross_layer`)."""
    g = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    made, theirs = [], []
    for layer in range(layers):
        own = {"w_enc": draw(width, size), "b_enc": draw(size) / 4, "w_dec": draw(size, layers - layer, width) / 4,
               "b_dec": draw(width), "threshold": draw(size).abs() if kind == "jumprelu" else None}  # fmt: skip
        encoder = Encoder(own["w_enc"], own["b_enc"], kind, threshold=own["threshold"])
        site = f"n{layer}" if reads == "n" else f"r{layer}.mid"
        how = {"site": site, "writes": f"m{layer}{post}", "onward": Onward(own["w_dec"])}
        made.append(Dictionary.of(encoder, own["w_dec"][:, 0].clone(), own["b_dec"], **how))
        theirs.append(own)
    return made, theirs


def random_task(count=2, length=6):
    found = pairs(VOCAB, count, length, 3)
    prompts = [tuple(tuple(getattr(pair, side)) for pair in found) for side in ("clean", "corrupted")]
    answers = [tuple((getattr(pair, side),) for pair in found) for side in ("correct", "incorrect")]
    return Task("random", *prompts, *answers)
