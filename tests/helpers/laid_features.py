"""Dictionaries of random numbers for tiny models, in our form and in the naive one, and tasks to try them on."""

import naive_features as plain
import torch
from bridges import as_model
from tiny_models import VOCAB, make, pairs

from veracausa.dictionaries import Dictionary, Encoder
from veracausa.tasks.task import Task

SIZE = 14


def task_of(found):
    columns = [[tuple(pair.clean) for pair in found], [tuple(pair.corrupted) for pair in found]]
    return Task(
        "random", *map(tuple, columns), tuple((p.correct,) for p in found), tuple((p.incorrect,) for p in found)
    )


SITES = {"r": "resid", "a": "attn_out", "m": "mlp", "z": "z", "n": "mlp_in"}


def dictionary(width, site, kind="topk", writes=None, skip=False, out=None, seed=5, **more):
    """The same dictionary for both sides."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    out = out or width
    w_enc, b_enc, w_dec, b_dec = draw(width, SIZE), draw(SIZE) / 4, draw(SIZE, out) / 4, draw(out)
    threshold, through = draw(SIZE).abs(), draw(width, out) / 4 if skip else None
    own = {"jumprelu": {"threshold": threshold}, "topk": {"k": 4}}.get(kind, {})
    encoder = Encoder(w_enc, b_enc, kind, **own)
    ours = Dictionary.of(encoder, w_dec, b_dec, site=site, writes=writes, skip=through, **more)
    named = {"a.post": "attn_post", "m.post": "mlp_post", "r.mid": "mid"}
    where = [(named.get(name[0] + name[2:], SITES[name[0]]), int(name[1])) for name in (site, writes or site)]
    return ours, plain.Plain(kind, w_enc, b_enc, w_dec, b_dec, *where, threshold=threshold, k=4, skip=through)


def asked(family, count=2, length=6, seed=3):
    hf = make(family)
    found = pairs(VOCAB, count, length, seed)
    return hf, as_model(hf, family), found, task_of(found)


def by_name(scores):
    return dict(zip(scores.units.names, scores.values.T.tolist(), strict=True))


def part_of(name):
    stem = name.partition("@")[0].rpartition(".")[2]
    return stem if stem in ("error", "skip") else int(stem)


def identity(width, site):
    eye = torch.eye(width, dtype=torch.float64)
    return Dictionary.of(Encoder(eye, torch.zeros(width, dtype=torch.float64), "linear"), eye, site=site)
