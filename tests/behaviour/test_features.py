"""Ablation studies of features: metric and answer against exact effects and plain runs with hooks."""

import naive_features as plain
import pytest
import torch
from bridges import as_model
from tiny_models import make

import veracausa as vc
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.errors import UnitError

QUIET = {"show_progress": False}


def _both(width, site, where, seed=5, size=9, writes=None):
    """`writes`: of a transcoder, (its site, the same for plain hooks)."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    w_enc, b_enc, w_dec, b_dec = draw(width, size), draw(size), draw(size, width) / 2, draw(width)
    named, at = writes or (None, where)
    ours = Dictionary.of(Encoder(w_enc, b_enc, "topk", k=5), w_dec, b_dec, site=site, writes=named)
    return ours, plain.Plain("topk", w_enc, b_enc, w_dec, b_dec, where, at, k=5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("ablation", ["zero", "counterfactual"])
def test_alone_and_together_they_do_what_exact_effects_say(family, ablation, task_of):
    lm, task = as_model(make(family), family), task_of([6, 8], 3)
    first, _ = _both(lm.width, "r1", ("resid", 1))
    second, _ = _both(lm.width, "m1", ("mlp", 1), seed=6)
    laid = lm.reading(first, second.named("mlp"))
    units = ["f1.2", "f1.4", "f1.error", "f1.mlp.3", "a2.h1"]
    found = vc.behaviour.ablation_study(laid, task, units=units, ablations=[ablation], **QUIET)
    assert "dictionary_digest" in found.settings
    groups = {name: [name] for name in units} | {"together": units}
    exact = vc.exact(laid, task, units=groups, ablation=ablation, **QUIET)
    # Conditions stand as the units do: the model as it is, each alone, all together.
    moved = (found.metric[1:] - found.metric[:1]).double()
    assert moved.shape[0] == len(units) + 1
    torch.testing.assert_close(moved.T, exact.values.double(), rtol=0, atol=1e-9)


def test_the_answer_is_that_of_a_run_with_a_hook(task_of):
    lm, task = as_model(make("llama"), "llama"), task_of(6, 3)
    ours, naive = _both(lm.width, "r1", ("resid", 1))
    found = vc.behaviour.ablation_study(lm, task, units=["f1.2", "f1.4"], ablations=["zero"], dictionary=ours, **QUIET)

    def hook(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        f = torch.stack([naive.encode(row) for row in x])
        new = x - f[..., [2, 4]] @ naive.w_dec[[2, 4]]
        return ((new, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": new})

    handle = lm.hf.model.layers[1].register_forward_pre_hook(hook, with_kwargs=True)
    with torch.no_grad():
        wanted = lm.hf(torch.tensor(task.clean)).logits[:, -1].argmax(-1)
    handle.remove()
    assert found.tokens[-1, :, 0].tolist() == wanted.tolist()


def test_what_has_no_meaning_is_refused(task_of):
    lm, task = as_model(make("llama"), "llama"), task_of(6, 3)
    laid = lm.reading(_both(lm.width, "r1", ("resid", 1))[0])
    with pytest.raises(UnitError, match="resample"):
        vc.behaviour.ablation_study(laid, task, units=["f1.2", "f1.3"], ablations=["resample"], **QUIET)
    alone = vc.behaviour.ablation_study(
        laid, task, units=["f1.2", "f1.3"], ablations=["resample"], together=False, **QUIET
    )
    assert len(alone.outcomes) == 2


def _continued(hf, family, prompt, other, dictionaries, parts, ablation, new_tokens):
    """Greedy tokens of whole runs anew for each, parts of dictionaries replaced by hooks at every position."""
    there = {name: theirs.parts(*plain.both(hf, family, other, theirs)) for name, theirs in dictionaries.items()}
    ids, found = list(prompt), []
    for _ in range(new_tokens):
        edits, read = [], {}
        for name, theirs in dictionaries.items():

            def keep(x, name=name, read=read):
                read[name] = x
                return x

            def edit(y, theirs=theirs, name=name, read=read):
                own = theirs.parts(read.get(name, y), y)
                for part in parts.get(name, ()):
                    new = there[name][part]
                    held = torch.cat([new, new[-1:].expand(len(y) - len(new), -1)])
                    y = y + (held if ablation == "counterfactual" else 0) - own[part]
                return y

            edits += [(theirs.reads, keep)] if theirs.reads != theirs.writes else []
            edits.append((theirs.writes, edit))
        with torch.no_grad():
            token = int(plain.run(hf, family, ids, edits).argmax())
        ids, found = [*ids, token], [*found, token]
    return found


MID = "r1.mid", ("mid", 1)


@pytest.mark.parametrize(
    ("family", "site", "writes"),
    [
        *((family, ("r1", ("resid", 1)), None) for family in ("llama", "gpt2", "gemma2")),
        *((family, MID, None) for family in ("gemma2", "olmo2", "gemma4-experts")),
        ("olmo2", MID, ("m1", ("mlp", 1))),
    ],
)
@pytest.mark.parametrize("ablation", ["zero", "counterfactual"])
def test_several_tokens_are_those_of_runs_with_hooks(family, site, writes, ablation, task_of):
    hf = make(family)
    lm, task = as_model(hf, family), task_of(6, 3)
    first, one = _both(lm.width, *site, writes=writes)
    second, two = _both(lm.width, *(("m2", ("mlp", 2)) if writes else ("m1", ("mlp", 1))), seed=6)
    laid = lm.reading(first, second.named("mlp"))
    units = ["f1.2", "f1.error", "f2.mlp.3" if writes else "f1.mlp.3"]
    found = vc.behaviour.ablation_study(laid, task, units=units, ablations=[ablation], new_tokens=3, **QUIET)
    first_only = vc.behaviour.ablation_study(laid, task, units=units, ablations=[ablation], **QUIET)
    # the engine's rows of the first token, and the model's own forward with hooks: float64
    torch.testing.assert_close(found.metric, first_only.metric, rtol=0, atol=1e-9)
    conditions = [{}, {"r": [2]}, {"r": ["error"]}, {"m": [3]}, {"r": [2, "error"], "m": [3]}]
    seen = set()
    for row, parts in enumerate(conditions):
        for i in range(3):
            given = (task.clean[i], task.corrupted[i], {"r": one, "m": two}, parts, ablation, 3)
            wanted = _continued(hf, family, *given)
            own = [token for token in found.tokens[row, i].tolist() if token >= 0]  # stopped behind an end of text
            assert own == wanted[: len(own)] and len(own) > 0
            seen.add(tuple(own))
    assert len(seen) > 3
