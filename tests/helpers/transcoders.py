"""Random transcoders of tiny models, and a task to build attribution graphs of."""

import torch
from tiny_models import VOCAB, pairs

from veracausa.dictionaries import Dictionary, Encoder
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


def random_task(count=2, length=6):
    found = pairs(VOCAB, count, length, 3)
    prompts = [tuple(tuple(getattr(pair, side)) for pair in found) for side in ("clean", "corrupted")]
    answers = [tuple((getattr(pair, side),) for pair in found) for side in ("correct", "incorrect")]
    return Task("random", *prompts, *answers)
