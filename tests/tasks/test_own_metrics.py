"""Functions as metrics: what makes two of them the same."""

import functools
from dataclasses import dataclass

import torch

from veracausa.tasks.own_metrics import digest_of, name_of

SHIFT = 1.0


def helper(logits):
    return logits.sum(-1)


def other_helper(logits):
    return logits.mean(-1)


def by_global(logits):
    return logits[:, 0] + SHIFT


def with_scale(scale):
    return lambda logits: scale * logits[:, 0]


@dataclass(frozen=True)
class Tempered:
    temperature: float

    def __call__(self, logits):
        return (logits / self.temperature).log_softmax(-1)[:, 0]


class Probe:
    def __call__(self, logits):
        return logits[:, 0]


def test_the_same_and_another(monkeypatch):
    first = digest_of(by_global)
    assert first == digest_of(by_global)
    monkeypatch.setitem(globals(), "SHIFT", 2.0)
    assert digest_of(by_global) != first, "a global that it uses"
    assert digest_of(with_scale(2)) == digest_of(with_scale(2)) != digest_of(with_scale(3))
    a, b = torch.arange(3.0), torch.arange(3.0) + 1
    assert digest_of(with_scale(a)) == digest_of(with_scale(a.clone())) != digest_of(with_scale(b))
    assert digest_of(Tempered(2.0)) == digest_of(Tempered(2.0)) != digest_of(Tempered(3.0))
    assert digest_of(functools.partial(helper)) != digest_of(functools.partial(other_helper))
    assert digest_of(lambda logits: helper(logits)) != digest_of(lambda logits: other_helper(logits))
    assert digest_of(torch.nn.functional.softmax) == digest_of(torch.nn.functional.softmax)


def test_what_cannot_be_written_down_is_itself_alone():
    one, other = Probe(), Probe()
    assert digest_of(one) == digest_of(one) != digest_of(other)


def test_names():
    assert name_of(helper) == "helper()" and name_of(lambda logits: logits) == "lambda()"
    assert name_of(functools.partial(helper)) == "helper()" and name_of(Tempered(2.0)) == "Tempered()"
