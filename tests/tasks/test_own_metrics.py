"""Functions as metrics: what makes two of them the same."""

import functools
import types
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


BY_TWO = """
FIRST, SECOND = {first}, {second}
def one(logits): return logits * FIRST
def other(logits): return logits * SECOND
def metric(logits): return one(logits) + other(logits)
"""


def by_two(first, second):
    names = {"__name__": "own"}
    exec(BY_TWO.format(first=first, second=second), names)
    return names["metric"]


def test_two_functions_that_a_metric_calls_are_both_told_apart():
    """What is written down is held, so that the next thing to be written doesn't get its place in memory."""
    assert digest_of(by_two(1, 2)) == digest_of(by_two(1, 2))
    assert digest_of(by_two(1, 2)) != digest_of(by_two(1, 3)) != digest_of(by_two(2, 3))


def test_what_a_metric_takes_from_modules_and_classes_is_part_of_it():
    module, inner = types.ModuleType("own_module"), types.ModuleType("own_module.inner")
    module.inner, inner.token = inner, 1
    names = {"own_module": module}
    exec("def metric(logits): return logits[:, own_module.inner.token]", names)
    first = digest_of(names["metric"])
    assert first == digest_of(names["metric"])
    inner.token = 2
    assert digest_of(names["metric"]) != first, "of a module in a module"
    one, other = ({"__name__": "own"} for _ in range(2))
    for names, by in ((one, 1), (other, 2)):
        exec(f"class Own:\n  def _scaled(x): return x * {by}\ndef metric(logits): return Own._scaled(logits)", names)
    assert digest_of(one["metric"]) != digest_of(other["metric"]), "a method of a class"


def test_which_of_two_things_is_used_twice_is_told():
    a, b = [1], [2]
    assert digest_of(functools.partial(helper, (a, b, a))) != digest_of(functools.partial(helper, (a, b, b)))
    small = torch.tensor(3.0, dtype=torch.bfloat16)
    assert digest_of(with_scale(small)) == digest_of(with_scale(small.clone()))


def test_names():
    assert name_of(helper) == "helper()" and name_of(lambda logits: logits) == "lambda()"
    assert name_of(functools.partial(helper)) == "helper()" and name_of(Tempered(2.0)) == "Tempered()"
