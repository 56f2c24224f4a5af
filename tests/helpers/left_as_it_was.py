"""Whether the user's model comes back as it was: its state, an unusual model, and a hook that raises."""

import tiny_models
import torch


def state_of(hf):
    """Everything of a model that a call could leave changed."""
    return {
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in hf.modules()
        ],
        "forward": [m.__dict__.get("forward") for m in hf.modules()],
        "training": [m.training for m in hf.modules()],
        "requires_grad": [p.requires_grad for p in hf.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in hf.parameters()],
        "weights": {k: v.clone() for k, v in hf.state_dict().items()},
        "attention": [m.config._attn_implementation for m in hf.modules() if hasattr(m, "config")],
        "config": hf.config.to_dict(),
        "mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def same(before, after):
    for what in before:
        if what == "weights":
            assert all(torch.equal(before[what][k], after[what][k]) for k in before[what])
        elif what == "grad":
            for a, b in zip(before[what], after[what], strict=True):
                assert (a is None and b is None) or torch.equal(a, b)
        else:
            assert before[what] == after[what], what


def unusual(family="gpt2", attention="eager"):
    """A model in a mixed state: some parameters trainable, one block in training mode, a gradient, eager attention."""
    hf = tiny_models.make(family, seed=1, attn_implementation=attention)
    parameters = list(hf.parameters())
    for parameter in parameters[::3]:
        parameter.requires_grad_(False)
    trainable = next(p for p in parameters if p.requires_grad)
    trainable.grad = torch.ones_like(trainable)
    hf.train()
    next(m for name, m in hf.named_modules() if name.endswith(".1")).eval()
    return hf


class Boom(Exception):
    pass


def explode(after: int):
    """A pre-hook that raises at its n-th call."""
    calls = 0

    def hook(*_):
        nonlocal calls
        calls += 1
        if calls > after:
            raise Boom

    return hook
