"""The path `encoded`: features encoded anew on the way, against gradients and an encoder of the test's own."""

import naive_features as plain
import numpy as np
import pytest
import torch
from bridges import as_model, naive_metric
from tiny_models import make

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.errors import MethodError

QUIET = {"show_progress": False}
ENCODED = vc.Method(path="encoded", combine="increments")


def _both(width, kind="topk", size=9, seed=5):
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    w_enc, b_enc, w_dec, b_dec = draw(width, size), draw(size), draw(size, width) / 2, draw(width)
    own = {"topk": {"k": 4}, "jumprelu": {"threshold": torch.full((size,), 0.5, dtype=torch.float64)}}.get(kind, {})
    ours = Dictionary.of(Encoder(w_enc, b_enc, kind, **own), w_dec, b_dec, site="r1")
    return ours, plain.Plain(kind, w_enc, b_enc, w_dec, b_dec, ("resid", 1), ("resid", 1), k=4,
                             threshold=own.get("threshold"))  # fmt: skip


def _naive(lm, task, dictionary, nodes):
    """Scores of every feature and the error, by whole runs with a hook that sets the stream entering block 1."""
    roots, weights = np.polynomial.legendre.leggauss(nodes)
    alphas, weights = (roots + 1) / 2, weights / 2
    block = {"gpt2": lambda: lm.hf.transformer.h, "gpt_neox": lambda: lm.hf.gpt_neox.layers}.get(
        lm.name, lambda: lm.hf.model.layers)()[1]  # fmt: skip
    found = []
    for i in range(len(task)):
        ends = []

        def keep(_, args, kwargs, ends=ends):
            ends.append((args[0] if args else kwargs["hidden_states"]).detach())

        for ids in (task.clean[i], task.corrupted[i]):
            handle = block.register_forward_pre_hook(keep, with_kwargs=True)
            with torch.no_grad():
                lm.hf(torch.tensor([ids]))
            handle.remove()
        one, other = ends
        total, end = 0.0, np.cumsum(weights)
        for alpha, weight, behind in zip(alphas, weights, end, strict=True):
            leaf = (one + alpha * (other - one)).requires_grad_()

            def put(_, args, kwargs, leaf=leaf):
                return ((leaf, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": leaf})

            handle = block.register_forward_pre_hook(put, with_kwargs=True)
            naive_metric(lm, task, i)(lm.hf(torch.tensor([task.clean[i]])).logits[0, -1]).backward()
            handle.remove()
            steps = []
            for share in (behind - weight, behind):
                x = (one + share * (other - one))[0]
                parts = dictionary.parts(x, x)
                steps.append({name: part for name, part in parts.items() if name != "skip"})
            total = total + torch.stack([((steps[1][n] - steps[0][n]) * leaf.grad[0]).sum() for n in steps[0]])
        found.append(total)
    return torch.stack(found)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["topk", "jumprelu", "relu"])
def test_scores_are_those_of_whole_runs_and_an_encoder_of_our_own(family, kind, task_of):
    lm, task = as_model(make(family), family), task_of([6, 8], 3)
    ours, naive = _both(lm.width, kind)
    names = [*(f"f1.{i}" for i in range(9)), "f1.error"]
    found = vc.attribute(lm, task, units=names, method=ENCODED, nodes=4, dictionary=ours, **QUIET)
    assert found.settings["path"] == "encoded" and found.settings["nodes"] == 4
    torch.testing.assert_close(found.values, _naive(lm, task, naive, 4), rtol=0, atol=1e-9)


def test_it_has_the_sum_of_the_straight_path_and_is_it_where_nothing_crosses_a_threshold(task_of):
    lm, task = as_model(make("gemma2"), "gemma2"), task_of([6, 8], 3)
    names = [*(f"f1.{i}" for i in range(9)), "f1.error"]
    for kind in ("topk", "linear"):
        ours, _ = _both(lm.width, kind)
        asked = {"units": names, "dictionary": ours, **QUIET}
        for direction in ("noising", "denoising"):
            straight, anew = (vc.attribute(lm, task, method=method, direction=direction, **asked) for method in
                              ("ig", ENCODED))  # fmt: skip
            torch.testing.assert_close(anew.values.sum(1), straight.values.sum(1), rtol=0, atol=1e-9)
            assert torch.equal(anew.completeness.true, straight.completeness.true)
            apart = (anew.values - straight.values).abs().max()
            assert apart < 1e-9 if kind == "linear" else apart > 1e-3
    site = vc.exact(lm, task, units=["r1"], **QUIET).values[:, 0]
    many = vc.attribute(lm, task, method=ENCODED, nodes=200, **asked).values.sum(1)
    torch.testing.assert_close(many, site, rtol=0, atol=2e-3)  # Gauss nodes of a smooth metric


def test_single_positions_and_what_means_nothing(task_of):
    lm, task = as_model(make("llama"), "llama"), task_of(6, 2)
    ours, _ = _both(lm.width)
    asked = {"method": ENCODED, "dictionary": ours, **QUIET}
    whole = vc.attribute(lm, task, units=["f1.3"], **asked).values
    apart = vc.attribute(lm, task, units=[f"f1.3@{p}" for p in range(6)], **asked).values
    torch.testing.assert_close(apart.sum(1), whole[:, 0], rtol=0, atol=1e-9)
    for units, more in (
        ("heads", {}),
        (["f1.3"], {"method": vc.Method(path="encoded", combine="increments", baseline="zero")}),
        ("edges", {}),
    ):
        with pytest.raises(MethodError, match=r"encoded|dictionar"):
            vc.attribute(lm, task, units=units, **asked | more)
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    through = Dictionary.of(Encoder(draw(lm.width, 9), draw(9), "relu"), draw(9, lm.width), site="n1", writes="m1")
    with pytest.raises(MethodError, match="reads n1"):
        vc.attribute(lm, task, units=["f1.3"], **asked | {"dictionary": through})
