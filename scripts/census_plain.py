"""Effects by whole runs of the bare Hugging Face model with plain hooks: nothing here knows veracausa's anatomies.

Parts are found by watching one forward: which list of modules runs block after block, which linear map runs last in a
block's attention and in its MLP. What cannot be found so without guessing is None, and is not compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_ATTENTION = re.compile(r"(self_?)?att(n|ention|entions)?(_?layer|_?block)?|multi_head_attention|self_att")
_ROUTER = re.compile(r"gate|router")
#: What a block calls a part that may mix positions otherwise; of some types also an attention or an MLP.
_MIXER = re.compile(r"mamba|mixer|conv|temporal_block|linear_attn")
_MLP = re.compile(r"mlp|mlp_block|shared_mlp|ffn|feed_?forward|block_sparse_moe|moe|mlps")


#: What Gemma 4 calls the norms behind an MLP and behind the experts beside it: what they give adds up.
_BESIDE = re.compile(r"post_feedforward_layernorm_[12]")
#: A module, or several that are taken together.
Site = nn.Module | tuple[nn.Module, ...]


def every(site: Site | None) -> tuple[nn.Module, ...]:
    """The modules of a site; none of None."""
    return () if site is None else site if isinstance(site, tuple) else (site,)


@dataclass(frozen=True)
class Parts:
    """Modules of one block: None where it has no such part, or it is not clear which it is."""

    block: nn.Module
    head_out: nn.Module | None  # the linear map behind the heads
    heads: int
    mlp: nn.Module | tuple[nn.Module, ...] | None  # several that read the same and add up
    down: nn.Module | None  # the linear map behind the neurons
    experts: nn.Module | None  # called with tokens, the choice and the weights of each
    router: nn.Module | None  # gives the choice and the weights, by one linear map first
    mixer: nn.Module | None = None  # what mixes positions otherwise than by attention
    mixer_out: nn.Module | None = None  # the linear map behind its channels
    mixer_heads: int = 0  # of these channels; 0 where they are in no heads
    attends: bool = True
    has_mlp: bool = True


class _Linear(TorchFunctionMode):
    """What linear maps give passes through `edit`."""

    def __init__(self, edit: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.edit = edit

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        return self.edit(found) if func is nn.functional.linear else found


class Plain:
    """A model as plain hooks see it, and what a metric is in its runs.

    `clean`, `corrupted`: tokens of both prompts. M = logit of `answer` − logit of `other`, at the last position.
    """

    def __init__(self, hf: Any, clean: Sequence[int], corrupted: Sequence[int], answer: int, other: int) -> None:
        self.hf, self.answer, self.other = hf, answer, other
        self.clean, self.corrupted = torch.tensor([list(clean)]), torch.tensor([list(corrupted)])
        self.names = {module: name for name, module in hf.named_modules()}
        self.called = self._called()
        self.blocks = [self._parts(i, block) for i, block in enumerate(self._blocks())]
        self.end = next((m for m in reversed(self.called) if self._is_after(m)), None)

    def metric(self, ids: Tensor) -> Tensor:
        """M of a run under the hooks that are set."""
        logits = self.hf(input_ids=ids, use_cache=False).logits[0, -1]
        return logits[self.answer] - logits[self.other]

    @property
    def gap(self) -> float:
        """M(clean) − M(corrupted)."""
        with torch.no_grad():
            return float(self.metric(self.clean) - self.metric(self.corrupted))

    # ---- finding parts

    def _called(self) -> list[nn.Module]:
        """Modules in the order in which they finish in a forward."""
        order: list[nn.Module] = []
        handles = [m.register_forward_hook(lambda m, *_: order.append(m)) for m in self.hf.modules()]
        try:
            with torch.no_grad():
                self.hf(input_ids=self.clean, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return order

    def _blocks(self) -> list[nn.Module]:
        """The outermost list of modules that run one after another, each once."""
        for module in self.hf.modules():  # parents come first
            own = list(module) if isinstance(module, nn.ModuleList) else []
            if len(own) > 1 and [m for m in self.called if m in own] == own:
                return own
        raise LookupError("no list of blocks that run one after another")

    def _parts(self, layer: int, block: nn.Module) -> Parts:
        named = {m: [type(part) for part in m.modules()] for m in self._children(block, _MIXER)}
        named |= {
            m: inside for m in self._children(block, _ATTENTION) if nn.Conv1d in (inside := [*map(type, m.modules())])
        }
        mixers = [m for m, inside in named.items() if nn.Conv1d in inside]
        asking = [m for m in named if m not in mixers and any("q_proj" in name for name, _ in m.named_modules())]
        attentions = [*(m for m in self._children(block, _ATTENTION) if m not in mixers), *asking]
        out = self._last_linear(attentions[0]) if len(attentions) == 1 else None
        mlps = [*self._children(block, _MLP), *(m for m in named if m not in (*mixers, *asking))]
        mlp: Any = mlps[0] if len(mlps) == 1 else None
        if {self._name(m) for m in mlps} == {"block_sparse_moe", "shared_mlp"}:
            mlp = tuple(mlps)
        if beside := self._children(block, _BESIDE):
            mlp = tuple(beside)
        if not mlps:  # its maps are in the block itself
            own = [m for name, m in block.named_children() if name in ("fc2", "linear2") and m in self.called]
            mlp = own[0] if own else None
        inside = {part: name for m in every(mlp) for name, part in m.named_modules()}
        dense = isinstance(mlp, nn.Module) and not any("expert" in name for name in inside.values())
        down = self._last_linear(mlp) if dense else None
        if dense and "residual" in signature(mlp.forward).parameters:
            mlp = down  # it adds the stream itself, so what it writes is what comes before that
        experts = [m for m in self.called if m in inside and hasattr(m, "num_experts")]
        routed = [m for m in experts if "experts" in self._name(m)]
        children = [m for one in every(mlp) for m in self._children(one, _ROUTER)] if routed else []
        routers = [m for m in children if not isinstance(m, nn.Linear) or hasattr(m, "top_k")]
        parts = routed[0] if routed else None, routers[0] if routers else None
        mixer = mixers[0] if len(mixers) == 1 else None
        mixer_out = None if mixer is None else self._last_linear(mixer)
        attends = bool(attentions) or not named
        heads = next(
            (n for name in ("num_v_heads", "num_heads") if isinstance(n := getattr(mixer, name, None), int)), 0
        )
        has_mlp = bool(mlps) or not named
        return Parts(block, out, self._heads(layer), mlp, down, *parts, mixer, mixer_out, heads, attends, has_mlp)

    def _name(self, module: nn.Module) -> str:
        return self.names[module].rpartition(".")[2]

    def _children(self, block: nn.Module, named: re.Pattern[str]) -> list[nn.Module]:
        own = [*block.named_children()]
        own += [both for name, m in own if name == "norm_attn_norm" for both in m.named_children()]
        return [m for name, m in own if named.fullmatch(name) and m in self.called]

    def _last_linear(self, module: nn.Module) -> nn.Module | None:
        inside = set(module.modules())
        found = [m for m in self.called if m in inside and getattr(getattr(m, "weight", None), "ndim", 0) == 2]
        return found[-1] if found else None

    def _heads(self, layer: int) -> int:
        config = self.hf.config.get_text_config(decoder=True)
        each = getattr(config, "num_attention_heads_per_layer", None)
        return int(each[layer] if each else getattr(config, "num_attention_heads", 0))

    def _is_after(self, module: nn.Module) -> bool:
        """Whether a module is a norm or the like that is called when the last block has run."""
        last = max(i for i, m in enumerate(self.called) if m is self.blocks[-1].block)
        rest = self.called[last + 1 :]
        return module in rest and "norm" in (type(module).__name__ + self.names[module]).lower().replace("ln", "norm")

    # ---- running

    @contextmanager
    def _edited(self, module: nn.Module, edit: Callable[[Tensor], Tensor], at: str) -> Iterator[None]:
        """Pass a module's first input, or its (first) output, through `edit`."""

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (edit(args[0]), *args[1:]), kwargs
            key = "hidden_states" if "hidden_states" in kwargs else next(iter(kwargs))
            return args, {**kwargs, key: edit(kwargs[key])}

        def behind(_: Any, args: Any, output: Any) -> Any:
            return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

        handle = (
            module.register_forward_pre_hook(before, with_kwargs=True)
            if at == "in"
            else module.register_forward_hook(behind)
        )
        try:
            yield
        finally:
            handle.remove()

    def seen(self, module: nn.Module, at: str, ids: Tensor) -> Tensor:
        """What a module was given or gave in a run."""
        kept: list[Tensor] = []

        def keep(x: Tensor) -> Tensor:
            kept.append(x.clone())
            return x

        with torch.no_grad(), self._edited(module, keep, at):
            self.hf(input_ids=ids, use_cache=False)
        return kept[0]

    def patched(self, module: Site, at: str, where: tuple[Any, ...] = ()) -> float:
        """Effect of giving a site, or its part `where` ([..., columns] or [rows, positions]), its corrupted values.

        A site of which tokens are flattened into one dimension ([tokens, width]) is taken as it comes.
        """
        with torch.no_grad():
            before = self.metric(self.clean)
            with self._corrupted(module, at, where):
                return float(self.metric(self.clean) - before)

    @contextmanager
    def _corrupted(self, module: Site, at: str, where: tuple[Any, ...]) -> Iterator[None]:
        """A site, or a part of it, with its corrupted values."""
        with ExitStack() as stack:
            for one in every(module):
                new = self.seen(one, at, self.corrupted)

                def edit(x: Tensor, new: Tensor = new) -> Tensor:
                    x = x.clone()
                    x[where or ...] = new[where or ...]
                    return x

                stack.enter_context(self._edited(one, edit, at))
            yield

    def slope(self, module: Site, at: str, where: tuple[Any, ...] = ()) -> float:
        """Attribution patching: Σ (a′ − a) · ∂M/∂a over the part of a site, at the clean run."""
        if isinstance(module, tuple):
            return sum(self.slope(one, at, where) for one in module)
        own, new = (self.seen(module, at, ids) for ids in (self.clean, self.corrupted))
        leaf = own.clone().requires_grad_()
        with torch.enable_grad(), self._edited(module, lambda _: leaf.clone(), at):
            gradient = torch.autograd.grad(self.metric(self.clean), leaf)[0]
        return float(((new - own) * gradient)[where or ...].sum())

    # ---- experts

    def adds(self, experts: nn.Module, expert: int, ids: Tensor) -> Tensor:
        """What one expert adds to their sum in a run: their output where the others' weights are 0."""
        tokens, choice, weights = self._given(experts, ids)
        with torch.no_grad():
            return experts(tokens, choice, weights * (choice == expert))

    def _given(self, experts: nn.Module, ids: Tensor) -> tuple[Tensor, ...]:
        """What the experts are called with in a run."""
        given: list[tuple[Tensor, ...]] = []
        handle = experts.register_forward_pre_hook(lambda _, args: given.append(args))
        with torch.no_grad():
            self.hf(input_ids=ids, use_cache=False)
        handle.remove()
        return given[0]

    def inside(self, experts: Any, expert: int, neuron: int) -> Tensor:
        """Change of the experts' sum where a neuron of one is what it is in the corrupted run (0 if not chosen there).

        What a neuron adds is told by taking it out of the down projection.
        """
        (own, weight), (new, its) = (
            self._adds_inside(experts, expert, neuron, ids) for ids in (self.clean, self.corrupted)
        )
        return torch.where(its != 0, new * weight / torch.where(its != 0, its, 1), 0) - own

    @torch.no_grad()
    def _adds_inside(self, experts: Any, expert: int, neuron: int, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What a neuron of an expert adds to the experts' sum in a run, and the expert's weights."""
        tokens, choice, weights = self._given(experts, ids)
        weights, down = weights * (choice == expert), getattr(experts, "down_proj", None)
        if down is None:  # below one another
            below = experts.mlp.w2.data
            column = below.view(experts.num_experts, -1, below.shape[1])[expert, neuron]
        else:
            turned = getattr(experts, "is_transposed", False)
            column = down.data[expert, neuron] if turned else down.data[expert, :, neuron]
        kept, whole = column.clone(), experts(tokens, choice, weights)
        column.zero_()
        without = experts(tokens, choice, weights)
        column.copy_(kept)
        return whole - without, weights.sum(-1, keepdim=True)

    def beside(self, layer: int, ids: Tensor) -> Tensor:
        """What an MLP gives in a run where its experts give nothing in this block, and what they do elsewhere."""
        parts = self.blocks[layer]
        assert parts.experts is not None and parts.mlp is not None
        with self._edited(parts.experts, torch.zeros_like, "out"):
            return sum(self.seen(one, "out", ids) for one in every(parts.mlp))  # type: ignore[return-value]

    def logits(self, router: nn.Module, ids: Tensor, change: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """M of a run in which a router's logits are those that `change` makes of its own, and these own ones."""
        seen: list[Tensor] = []
        modes: list[_Linear] = []

        def edit(found: Tensor) -> Tensor:
            seen.append(found)
            return change(found)

        handles = [
            router.register_forward_pre_hook(lambda *_: modes.append(_Linear(edit).__enter__())),
            router.register_forward_hook(lambda *_: modes.pop().__exit__(None, None, None)),
        ]
        try:
            return self.metric(ids), seen[0]
        finally:
            for handle in handles:
                handle.remove()

    def rerouted(self, router: nn.Module) -> float:
        """Effect of giving a router the logits of the corrupted run."""
        with torch.no_grad():
            new = self.logits(router, self.corrupted, lambda own: own)[1]
            return float(self.logits(router, self.clean, lambda _: new)[0] - self.metric(self.clean))

    def rerouted_slope(self, router: nn.Module) -> float:
        """The same to first order, as long as the choice stays."""
        with torch.no_grad():
            own, new = (self.logits(router, ids, lambda own: own)[1] for ids in (self.clean, self.corrupted))
        leaf = own.clone().requires_grad_()
        with torch.enable_grad():
            gradient = torch.autograd.grad(self.logits(router, self.clean, lambda _: leaf.clone())[0], leaf)[0]
        return float(((new - own) * gradient).sum())

    def added(self, module: Site, change: Tensor) -> float:
        """Effect of adding something to a module's output in the clean run."""
        module = every(module)[-1]
        with torch.no_grad():
            before = self.metric(self.clean)
            with self._edited(module, lambda x: x + change, "out"):
                return float(self.metric(self.clean) - before)

    def added_slope(self, module: Site, change: Tensor) -> float:
        """The same to first order: Σ change · ∂M/∂(output)."""
        module = every(module)[-1]
        own = self.seen(module, "out", self.clean)
        leaf = own.clone().requires_grad_()
        with torch.enable_grad(), self._edited(module, lambda _: leaf.clone(), "out"):
            gradient = torch.autograd.grad(self.metric(self.clean), leaf)[0]
        return float((change * gradient).sum())

    def direct(self, layer: int, module: Site, at: str, where: tuple[Any, ...], freeze: Site | None) -> float:
        """Effect of a write of block `layer` on the final norm alone: the edge to the logits.

        The write's change is read off the block's output, in a run where a site has its corrupted values and the
        module `freeze`, which reads it in the same block, gives its clean output.
        """
        assert self.end is not None
        moved = self._moved(layer, module, at, where, freeze)
        for later in self.blocks[layer + 1 :]:  # Gemma 4 multiplies its stream behind each block
            moved = moved * getattr(later.block, "layer_scalar", 1)
        with torch.no_grad():
            before = self.metric(self.clean)
            with self._edited(self.end, lambda x: x + moved, "in"):
                return float(self.metric(self.clean) - before)

    def heads_add_up(self, layer: int) -> bool:
        """Whether a block's output is linear in its heads: no norm, gate or the like is behind their projection."""
        parts = self.blocks[layer]
        assert parts.head_out is not None and parts.mlp is not None
        first, rest, all_of_them = (
            self._moved(layer, parts.head_out, "in", (..., part), parts.mlp)
            for part in (slice(0, 5), slice(5, None), slice(None))
        )
        return bool((first + rest - all_of_them).abs().max() <= 1e-6 * all_of_them.abs().max())

    def _moved(self, layer: int, module: Site, at: str, where: tuple[Any, ...], freeze: Site | None) -> Tensor:
        block = self.blocks[layer].block
        held = [(one, self.seen(one, "out", self.clean)) for one in every(freeze)]
        before = self.seen(block, "out", self.clean)
        with ExitStack() as stack:
            stack.enter_context(self._corrupted(module, at, where))
            for one, kept in held:
                stack.enter_context(self._edited(one, lambda _, kept=kept: kept, "out"))
            return self.seen(block, "out", self.clean) - before
