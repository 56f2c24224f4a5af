"""Backward rules: another backward pass under the model's own forward values.

A rule says, part by part, what gradients become on their way back; no forward value changes, bit for bit. `applied`
puts it on a model by hooks on the modules that the anatomy names, and takes it off again:

* norms: the denominator is a constant (y = γ · (x [− mean]) / s, s detached), in every norm of the model, those of
  queries and keys and post-norms included;
* softmax of the attention: p ⊙ (g − ⟨p, g⟩) with p = softmax(s / T); at T = 1 the usual one;
* gradients into queries and keys, and into values, times a factor;
* a gated MLP's product: each branch's gradient times a factor; families without a gate have no such product;
* activations: f(x) = x · c with c = f(x)/x held constant, c = f′(0) at 0.

GIM (2505.17630) and RelP (2508.21258) are settings of these. A new rule of such parts is one line in `RULES`.
The soft caps of Gemma-2's scores and logits keep their own derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from veracausa.anatomy import Block, Decoder
from veracausa.anatomy.bridges import bridged
from veracausa.engine.attention import SUFFIX
from veracausa.engine.attention_rule import AttentionRule, Scaled
from veracausa.engine.guard import attention_function, hooks
from veracausa.engine.norms import norm_form
from veracausa.engine.rule import Rule
from veracausa.placed import home_of


@contextmanager
def applied(decoder: Decoder, rule: Rule) -> Iterator[None]:
    """Gradients of every forward inside follow `rule`; nothing else of the model changes.

    Attention runs through `attention.SUFFIX` inside, whatever the user chose, because fused kernels have no softmax
    that a rule could reach.
    """
    if rule.plain:
        yield
        return
    require_reached(decoder, rule)
    forward: list[tuple[nn.Module, Any]] = []  # all made before the first is put on, so that none is left on an error
    for block in decoder.blocks:
        if rule.linear_activations:
            forward.append((block.activation, _as_ratio(decoder, block.activation)))
        if rule.product != 1 and block.up is not None:
            forward += [(block.activation, _scaling(rule.product)), (block.up, _scaling(rule.product, block))]
    if rule.freeze_norms:
        forward += [(norm, _frozen(decoder, norm)) for norm in decoder.norms]
    inner = _with_rule(decoder, rule)
    handles = [block.attention.register_forward_pre_hook(inner, with_kwargs=True) for block in decoder.blocks]
    handles += [module.register_forward_hook(hook) for module, hook in forward]
    with attention_function(decoder, SUFFIX), hooks(*handles):
        yield


def require_reached(decoder: Decoder, rule: Rule) -> None:
    """Refuse a rule about the inside of MLPs where those are mixtures of experts, which no hook reaches.

    Raises:
        ArchitectureError: says what to take instead.
    """
    for block in decoder.blocks if rule.inside_mlps else ():
        block.require_single()


class _Surrogate(torch.autograd.Function):
    """The first argument forward, the second one's gradient backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, proxy: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


def _with_rule(decoder: Decoder, rule: Rule) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """A hook that tells our attention function of a rule; a module behind a bridge knows no such word in bare runs."""
    inner, alone = AttentionRule(rule), decoder.anatomy.bridge is None

    def add(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "rule": inner} if alone or bridged(module) else kwargs

    return add


def _scaling(factor: float, gated: Block | None = None) -> Callable[[Any, Any, Tensor], Tensor]:
    """Gradients of a module's output, or of its part that is a block's gated branch, times a factor."""

    def scale(_: Any, __: Any, output: Tensor) -> Tensor:
        if gated is None or not gated.up_fused:
            return Scaled.apply(output, factor)
        gate, up = output.chunk(2, -1)
        return torch.cat([gate, Scaled.apply(up, factor)], -1)

    return scale


def _as_ratio(decoder: Decoder, activation: nn.Module) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """f(x) = x · (f(x)/x held constant); near 0 the ratio is the slope there, by a central difference."""
    wide = torch.promote_types(next(decoder.hf.parameters()).dtype, torch.float32)
    with torch.no_grad():
        step = torch.full((), 1e-4, dtype=wide, device=home_of(decoder.hf))
        up, down = (decoder.found.run(activation, end) for end in (step, -step))
        slope = (up - down) / (2 * step)

    def linear(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        (x,) = args
        with torch.no_grad():
            small = x.abs() < 1e-6
            ratio = torch.where(small, slope.to(x.dtype), output / torch.where(small, torch.ones_like(x), x))
        return _Surrogate.apply(output, x * ratio)

    return linear


def _frozen(decoder: Decoder, norm: nn.Module) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
    """The norm with its denominator held constant.

    Raises:
        ArchitectureError: the module is no norm that we know.
    """
    form = norm_form(decoder, norm)

    def frozen(_: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0]
        linear = form.linear(x) * form.inverse(x, output)
        return _Surrogate.apply(output, linear if form.bias is None else linear + form.bias)

    return frozen
