"""From the tests' own models and naive units to the library's objects and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import MethodType

import naive
import pytest
import tiny_models
import torch

from veracausa.anatomy import decoder_of
from veracausa.model import Model
from veracausa.tasks.task import Task


def as_model(hf, name: str = "tiny", tokenizer=None) -> Model:
    return Model(hf, tokenizer, name, f"{name}, random weights", decoder_of(hf))


@contextmanager
def watched(module, before: Callable[..., object]) -> Iterator[None]:
    """Call `before(*args)` ahead of a module's forward, under the name of that: a hook would make it another model."""
    own, alone = module.forward, "forward" in vars(module)  # of a float64 model its own, else its class's

    @wraps(own.__func__)
    def forward(self, *args, **kwargs):
        if self is module:
            before(*args)
        return own.__func__(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module if alone else type(module), "forward", MethodType(forward, module) if alone else forward)
        yield


KIND = {"heads": "heads", "mlps": "mlps", "attention": "attn", "neurons": "neurons", "residual": "resid"}


def naive_units(units) -> list[tuple]:
    """A table of `Units` as the reference's (kind, layer, index, position)."""
    rows = zip(units.layer.tolist(), units.index.tolist(), units.position.tolist(), strict=True)
    return [(KIND[units.kind], layer, None if i < 0 else i, None if p < 0 else p) for layer, i, p in rows]


def naive_metric(lm: Model, task: Task, example: int) -> naive.Metric:
    """The task's metric, written anew: logits [V] at the last position → number; of logits [n, V] if it is `whole`."""
    places, last = task.places[example], task.lengths[example] - 1
    with torch.no_grad():
        clean = lm.hf(torch.tensor([task.clean[example]])).logits[0].softmax(-1)
    correct, incorrect = list(task.correct[example]), list(task.incorrect[example])
    if places == (last,) and task.function is None:
        return _of_one(task.metric, correct, incorrect, clean[-1])

    def whole(logits: torch.Tensor) -> torch.Tensor:
        if task.function is not None:
            own = {"pair": torch.tensor([task.number[example]]), "clean": clean[None, list(places)].log()}
            own = {name: one for name, one in own.items() if name in task.measure.asks}
            if len(places) > 1:
                return task.function(logits[None, list(places)], **own)[0]
            return task.function(logits[None, places[0]], **own)[0]
        answers = [[one] for one in correct] if task.continued else [correct] * len(places)
        found = [
            _of_one(task.metric, right, incorrect, clean[at])(logits[at])
            for at, right in zip(places, answers, strict=True)
        ]
        return {"mean": torch.mean, "sum": torch.sum, "product": torch.prod}[task.over](torch.stack(found))

    whole.whole = True
    return whole


def _of_one(name: str, correct: list[int], incorrect: list[int], clean: torch.Tensor) -> naive.Metric:
    """A metric of logits [V] at one position; `clean`: the clean run's probabilities there."""

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.log()).sum()

    return {
        "logit_diff": lambda logits: logits[correct].mean() - logits[incorrect].mean(),
        "prob": lambda logits: logits.softmax(-1)[correct].sum(),
        "logprob": lambda logits: logits.softmax(-1)[correct].sum().log(),
        "prob_diff": lambda logits: logits.softmax(-1)[correct].sum() - logits.softmax(-1)[incorrect].sum(),
        "neg_kl": lambda logits: -(clean * (clean.log() - logits.log_softmax(-1))).sum(),
        "logit": lambda logits: logits[correct].mean(),
        "logit_lse": lambda logits: logits[correct].exp().sum().log(),
        "logit_diff_max": lambda logits: (
            logits[correct].mean() - max(one for token, one in enumerate(logits) if token not in correct)
        ),
        "entropy": lambda logits: entropy(logits.softmax(-1)),
        "neg_kl_reverse": lambda logits: (logits.softmax(-1) * (clean.log() - logits.log_softmax(-1))).sum(),
        "neg_js": lambda logits: (
            (entropy(clean) + entropy(logits.softmax(-1))) / 2 - entropy((clean + logits.softmax(-1)) / 2)
        ),
    }[name]


def smooth(family):
    """A model with small weights beside norms and embeddings, so that paths converge with few nodes."""
    hf = tiny_models.make(family, seed=1)
    with torch.no_grad():
        for name, weight in hf.named_parameters():
            if not any(part in name for part in ("norm", ".ln_", "embed", ".wte", ".wpe")):
                weight *= 0.4
    return as_model(hf, family)
