"""Attention patterns against the model's own, and roles of patterns that are known."""

import numpy as np
import pytest
import torch

from veracausa.cost import Cost
from veracausa.counterfactuals.roles import (
    NONE,
    ROLES,
    _figures,
    head_roles,
    load_head_roles,
    pattern,
)
from veracausa.effects.replacements import recorded
from veracausa.engine.guard import borrowed
from veracausa.errors import FileError
from veracausa.tasks.task import Task


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "mistral", "gemma2", "gemma3"])
def test_patterns_are_the_models_own(tiny, task_of, family):
    """Eager attention hands out its probabilities; ours are read off recorded queries and keys."""
    lm, task = tiny(family, attn_implementation="eager"), task_of(9, n=3)
    with borrowed(lm.decoder), torch.no_grad():
        ((_, state),) = recorded(lm, task.clean, ("queries", "keys"), Cost())
        ours = [pattern(state, layer) for layer in range(lm.layers)]
    with torch.no_grad():
        theirs = lm.hf(torch.tensor(task.clean), output_attentions=True).attentions
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)  # float64; probabilities


@pytest.mark.parametrize("family", ["gpt2", "mistral", "gemma3"])
def test_the_first_pair_is_shown_as_the_model_looks_at_it(tiny, task_of, family):
    lm, task = tiny(family, attn_implementation="eager"), task_of([6, 8], n=4)
    found = head_roles(lm, task)
    for run, prompts in enumerate((task.clean, task.corrupted)):
        with torch.no_grad():
            theirs = lm.hf(torch.tensor(prompts[:1]), output_attentions=True).attentions
        own = torch.cat([layer[0, :, -1] for layer in theirs]).numpy()  # from the last token, all heads in order
        np.testing.assert_allclose(found.looks[run], own, rtol=0, atol=1e-10)  # float64; probabilities
    assert found.looks.shape == (2, len(found.units), task.lengths[0])


def looks_at(length, targets):
    """Attention [heads, positions, keys] of heads that look at one key from each position: `targets[head](t)`."""
    attention = np.zeros((len(targets), length, length))
    for head, target in enumerate(targets):
        for t in range(length):
            attention[head, t, target(t)] = 1
    return attention


def test_figures_of_known_patterns():
    #       0  1    2  3    4  5   6      "After John and Mary , Mary … to", say: IO at 1, S at 3 and 5
    clean = (9, 1, 8, 2, 7, 2, 6)
    task = Task("t", (clean,), ((9, 1, 8, 2, 7, 1, 6),), ((1,),), ((2,),))
    last = len(clean) - 1
    attention = looks_at(
        last + 1,
        [
            lambda t: max(t - 1, 0),  # previous token
            lambda t: 3 if t == 5 else 0,  # duplicate token
            lambda t: 4 if t == 5 else 0,  # induction
            lambda t: 5 if t == last else 0,  # S-inhibition; also the token before the last
            lambda t: 1 if t == last else 0,  # name mover; 1 is also the token before 2
            lambda t: 0,
        ],
    )
    found = np.array(list(_figures(attention, task, 0)))
    assert found[1].tolist() == [0, 1, 0, 0, 0, 0]
    assert found[2].tolist() == [1, 0, 1, 0, 0, 0], "the token after the first place is the one before the second"
    assert found[3].tolist() == [1, 0, 0, 1, 0, 0]
    assert found[4].tolist() == [0, 0, 0, 0, 1, 0]
    np.testing.assert_allclose(found[0], [1, 1 / 6, 2 / 6, 2 / 6, 1 / 6, 1 / 6])


def test_prompts_without_places(tiny):
    """A role whose places no prompt has is NaN, is nobody's role, and is said."""
    lm = tiny("llama")
    task = Task("t", ((1, 2, 3, 4), (5, 6, 7, 8)), ((1, 2, 3, 9), (5, 6, 7, 9)), ((20,), (21,)), ((22,), (23,)))
    found = head_roles(lm, task)
    assert found.counts == (2, 0, 0, 0, 0) and np.isnan(found.attention[1:]).all()
    assert set(found.roles) <= {"previous token", NONE}
    assert sum("No prompt has the places" in sentence for sentence in found.sentences) == 4


def test_saved_and_counted(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    found = head_roles(lm, task)
    again = load_head_roles(found.save(tmp_path / "roles.safetensors"))
    assert again.sentences == found.sentences and again.table().equals(found.table())
    assert found.table().shape == (len(found.units), 4 + 3 * len(ROLES))
    assert head_roles.work(lm, task).tokens() == (sum(task.lengths) + task.lengths[0]) * lm.layers
    np.testing.assert_array_equal(again.looks, found.looks)
    with pytest.raises(FileError, match="not a veracausa-head-roles-2 file"):
        from veracausa import exact

        load_head_roles(exact(lm, task, show_progress=False).save(tmp_path / "scores.safetensors"))
