"""What a machine does in a second: the price of a row, not that of recording the pairs, and every kind of work."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import veracausa as vc
from veracausa.cost import Cost, Step
from veracausa.engine.batches import buckets
from veracausa.planning import rates as module
from veracausa.planning.rates import _rate, batches, rates, timed
from veracausa.studies.study import likely_units


def test_beginning_a_batch_is_not_charged_to_its_rows(monkeypatch):
    """0.1 s to begin two batches, then 10,000 token-layers a second, on a clock that only the work moves."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def work(tokens: int, seconds: float):
        def run() -> Cost:
            now[0] += seconds
            return Cost(forward=tokens)

        return run

    speed, begin, _ = _rate(work(100, 0.11), work(1100, 0.21), 2)
    assert speed == pytest.approx(10_000) and begin == pytest.approx(0.05)
    assert _rate(Cost, work(1000, 0.1), 2) == pytest.approx((10_000, 0, 0))
    # a small run that takes longer than the large one tells nothing about a row
    assert _rate(work(100, 0.15), work(1000, 0.1), 1).speed == pytest.approx(10_000)


def test_what_a_call_does_once_and_how_gradients_begin_is_not_charged_to_tokens(tiny, task_of, monkeypatch):
    """A clock that only the work moves: 7 s for the identity, 5 s to begin, 10,000 token-layers a second.

    When one pair was timed, with all that, gradients of edges were said to run at 83 token-layers a second.
    """
    lm, task, now = tiny("llama"), task_of(6, n=3), [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def identity(_, known=None):
        now[0] += 7.0 * (known is None or not known)
        known is not None and known.setdefault("read", True)
        return "identity"

    def estimate(lm, of, **_):
        assert lm.identity == "identity"
        now[0] += 5.0 + 0.1 * len(of)
        return SimpleNamespace(cost=Cost(forward=1000 * len(of)))

    monkeypatch.setattr("veracausa.engine.identity.identity_of", identity)
    monkeypatch.setattr(module, "attribute", estimate)
    found = rates(lm, task, ["edge gradients", "gradients"])
    for rate in found.values():
        assert rate == pytest.approx((10_000, 4.9 + 0.1, 7.0))
    price = vc.forecast(vc.attribute, lm, task, units="edges", method="eap")
    assert price.seconds == pytest.approx(7.0 + 5.0 * price.steps[0].batches + price.token_layers / 10_000)


def test_batches_are_what_a_tape_holds(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6, 6), n=6)
    assert batches(lm, task) == len(buckets(lm.decoder, task, True, len(task)))


def test_every_kind_has_a_rate_and_steps_their_seconds(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    kinds = ["exact", "neurons", "edges", "gradients", "edge gradients", "paths", "circuits", "locating", "unheard of"]
    known = rates(lm, task, kinds)
    assert set(known) == set(kinds) and all(rate.speed > 0 and rate.begin >= 0 for rate in known.values())
    [step] = timed([Step("one", "exact", 1000.0, 1.0, batches=3)], known)
    assert step.seconds == pytest.approx(1000 / known["exact"].speed + 3 * known["exact"].begin)
    heads = likely_units(lm, task)
    assert len(heads) == lm.layers * lm.heads == len(set(heads))


def test_a_task_without_answers_is_timed_by_what_needs_none(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    own = replace(task, correct=(), incorrect=(), metric="entropy").with_metric(lambda logits: logits[:, 3])
    assert rates(lm, own, ["exact", "gradients"]).keys() == {"exact", "gradients"}
