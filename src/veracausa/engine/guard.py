"""Borrow the user's model and give it back as it was, also after an exception; one thread at a time.

Everything that runs the model, hooks it or changes a setting of it happens inside `borrowed`. There is one loan per
Hugging Face model, whatever number of `vc.Model`s wrap it: a second thread's call waits until the first has ended.
Within a call, `borrowed` may be entered again and again; only the outermost gives back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from veracausa.anatomy import Decoder
from veracausa.anatomy.beside import joining
from veracausa.anatomy.bridges import Bridged, bridged, lay, take_away
from veracausa.anatomy.capped import require_cap
from veracausa.anatomy.packed import require_unpacked, unpacked, without_estimates
from veracausa.engine.before import Before, Kept, insist
from veracausa.engine.budget import free_memory
from veracausa.engine.precision import Precision, found_out
from veracausa.engine.shelf import Shelf
from veracausa.engine.uncompiled import uncompiled
from veracausa.errors import DeviceError
from veracausa.placed import at_home, home_of
from veracausa.storage.digests import Read


@dataclass(eq=False)
class Loan:
    """Who has a model, and what is known of it while he has it.

    `before`: what the model was when the outermost call began; None while nobody has borrowed it. `rest`: what its
    modules keep between runs, as every run begins with it. `shares[start, length]`: whether prefixes may be shared
    (`sharing`). `verified`: what `validate_whole` has compared, as (length, whether a prefix is shared, positions from
    the end); length 0: a short pair of a bucket of several. `shelf`: recordings that calls share (`shared`). `digests`:
    weights that were read (`identity`). `precision`: of the model with the attention function that its user chose.
    """

    lock: Any = field(default_factory=threading.Lock)
    owner: int | None = None
    before: Before | None = None
    rest: Kept | None = None
    shares: dict[tuple[int, int], bool] = field(default_factory=dict)
    verified: set[tuple[int, tuple[bool, bool], int]] = field(default_factory=set)
    shelf: Shelf | None = None
    digests: Read = field(default_factory=dict)
    precision: Precision | None = None

    def end(self, *, failed: bool) -> None:
        """Give the model back; nothing to do where it is back already."""
        if self.before is not None:
            self.before.restore(failed=failed)
        self.before = self.rest = self.precision = None
        self.shares, self.verified, self.shelf, self.digests = {}, set(), None, {}


#: Share of the free memory that shared recordings may take.
SHELF = 0.125

_LOANS: WeakKeyDictionary[nn.Module, Loan] = WeakKeyDictionary()
_REGISTER = threading.Lock()


def loan_of(decoder: Decoder) -> Loan:
    """The one loan of a decoder's Hugging Face model."""
    with _REGISTER:
        return _LOANS.setdefault(decoder.hf, Loan())


@contextmanager
def alone(decoder: Decoder) -> Iterator[Loan]:
    """Wait until no other thread has the model, and keep others waiting; it is not changed."""
    loan = loan_of(decoder)
    if loan.owner == threading.get_ident():
        yield loan
        return
    with loan.lock:
        try:
            loan.owner = threading.get_ident()
            yield loan
        finally:
            loan.owner = None


@contextmanager
def borrowed(decoder: Decoder) -> Iterator[Loan]:
    """Evaluation mode and frozen parameters inside; everything of the model as it was after.

    Parameters are frozen so that gradients flow to activations only (half the cost of a usual backward pass).
    Autocast is switched off: a run's precision is the model's own. The caller's inference mode is left, since gradients
    are impossible in it. Settings that shape the model's outputs (return_dict, use_cache) are ours inside. How the user
    left each part is written down (`anatomy.found`), and so is the precision in which the model computes (`precision`).
    What the user compiled in place is run as it is written (`uncompiled`); a model on several devices gives everything
    back on the first (`placed`).

    Raises:
        DeviceError: the weights were made inside `torch.inference_mode()`. MethodError: since it was loaded, its user
            left capped attention scores to sdpa.
    """
    hf: nn.Module = decoder.hf
    with alone(decoder) as loan:
        if loan.before is not None:
            with decoder.found.kept(lambda: decoder.parts):
                yield loan
            return
        _require_usable(hf)
        failed, device = True, home_of(hf).type
        with uncompiled(hf), unpacked(hf), at_home(hf):
            try:
                with torch.autocast(device, enabled=False), torch.inference_mode(False):
                    loan.before = Before.of(hf)
                    loan.before.lend(hf)
                    joined = joining(block.mlp for block in decoder.blocks)
                    with decoder.found.kept(lambda: decoder.parts), hooks(*joined):
                        loan.precision = precision_of(decoder)
                        with without_estimates(hf):
                            yield loan
                failed = False
            finally:
                with torch.inference_mode(False):
                    insist(lambda: loan.end(failed=failed))


@contextmanager
def shared(decoder: Decoder) -> Iterator[None]:
    """A borrowed model whose recordings are kept for later calls inside, as far as they fit into a share of the memory.

    No number changes, nor what a call says that it cost: it counts a recording that it finds as if it had made it.
    """
    with borrowed(decoder) as loan:
        before = loan.shelf
        loan.shelf = before or Shelf(int(SHELF * free_memory(home_of(decoder.hf))))
        try:
            yield
        finally:
            loan.shelf = before


@contextmanager
def unshared(decoder: Decoder) -> Iterator[None]:
    """Nothing recorded before is found inside, and nothing is kept: for runs under hooks of a caller's own."""
    with borrowed(decoder) as loan:
        before, loan.shelf = loan.shelf, None
        try:
            yield
        finally:
            loan.shelf = before


def precision_of(decoder: Decoder) -> Precision:
    """The precision of a model; of a float64 model found out by a run of two tokens, once a call.

    It depends on the user's attention function. While ours stands in its place (`attention.SUFFIX`), what was found
    under the user's holds, since runs under it are what ours are compared with.
    """
    with borrowed(decoder):  # outside of a call, too, it is a run of the user's model
        found, name = decoder.found, attention_name(decoder)
        if not name.startswith("veracausa") or "precision" not in found.read:
            found.read["precision"] = found.remembered(name, decoder.hf, lambda: found_out(decoder))
        made: Precision = found.read["precision"]
        return made


def compared_in(decoder: Decoder) -> torch.dtype:
    """The precision in which a run can be compared with one of the model as its user left it (`as_found`).

    The coarser of both: the softmax of one attention function may be in float32, and that of another in float64.
    """
    with borrowed(decoder) as loan:
        kinds = [one.dtype for one in (precision_of(decoder), loan.precision) if one is not None]
        return max(kinds, key=lambda kind: torch.finfo(kind).eps)


def attention_name(decoder: Decoder) -> str:
    """The attention function that the blocks use now."""
    stood = bridged(decoder.blocks[0].attention)
    return str(_configs(decoder)[0]._attn_implementation) if stood is None else stood.function


def _configs(decoder: Decoder) -> list[Any]:
    """The configs in which the blocks' attention function is written; a module without one has the model's."""
    return [*{id(c): c for b in decoder.blocks for c in (getattr(b.attention, "config", decoder.hf.config),)}.values()]


@dataclass(frozen=True, eq=False)
class _Choice:
    """Which attention function the blocks use: the name in each config, and the bridges that stand (`bridges`)."""

    names: list[tuple[Any, str]]
    bridges: list[tuple[nn.Module, Bridged | None]]

    @classmethod
    def of(cls, decoder: Decoder) -> _Choice:
        """What is in force now."""
        names = [(config, config._attn_implementation) for config in _configs(decoder)]
        return cls(names, [(block.attention, bridged(block.attention)) for block in decoder.blocks])

    def restore(self) -> None:
        """Put it in force again."""
        for config, name in self.names:
            config._attn_implementation = name
        for module, stood in self.bridges:
            take_away(module)
            if stood is not None:
                vars(module)["forward"] = stood


def _choose(decoder: Decoder, name: str) -> None:
    """Put an attention function in force; a family with bridges has ours behind them, and its config as it is."""
    ours, bridge = name.startswith("veracausa"), decoder.anatomy.bridge
    for block in decoder.blocks:
        if ours and bridge is not None:
            lay(block.attention, bridge, name)
        else:
            take_away(block.attention)
    if not ours or bridge is None:
        for config in _configs(decoder):
            config._attn_implementation = name


def _require_usable(hf: Any) -> None:
    require_unpacked(hf)
    config = hf.config.get_text_config()
    require_cap(config, f"The {type(hf).__name__}", config._attn_implementation)
    if any(parameter.is_inference() for parameter in hf.parameters()):
        raise DeviceError(
            "The model's weights were made inside torch.inference_mode(), so no gradient can pass through them, there "
            "or later. Load the model outside of it (torch.no_grad() does no harm); calls may then be made inside."
        )


@contextmanager
def attention_function(decoder: Decoder, name: str) -> Iterator[None]:
    """Let the blocks use the attention function called `name`; the former choice is restored after."""
    with borrowed(decoder) as loan:
        during = loan.before
        before, precision = _Choice.of(decoder), precision_of(decoder)

        def restore() -> None:
            if loan.before is during:  # a generator that is closed late has nothing to say any more
                before.restore()
                decoder.found.read["precision"] = precision

        try:
            _choose(decoder, name)
            precision_of(decoder)  # of the other function, if it is a user's
            yield
        finally:
            insist(restore)


@contextmanager
def as_found(decoder: Decoder) -> Iterator[Any]:
    """The Hugging Face model with the attention function that its user chose, whatever a call has set since."""
    with borrowed(decoder) as loan:
        assert loan.before is not None
        chosen = loan.before.attention()
        ours, beside = _Choice.of(decoder), [(config, config._attn_implementation) for config, _ in chosen]

        def restore() -> None:
            for config, implementation in beside:
                config._attn_implementation = implementation
            ours.restore()

        try:
            for module, _ in ours.bridges:
                take_away(module)
            for config, implementation in chosen:
                config._attn_implementation = implementation
            yield decoder.hf
        finally:
            insist(restore)


def giving(change: Callable[[Tensor], Tensor]) -> Any:
    """A hook that gives a module another first argument, its hidden states, however it is called."""

    def give(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(kwargs["hidden_states"])}

    return give


def changing(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Any:
    """A hook that puts another tensor in the place of a module's output, or of the first one if it gives several."""

    def changed(_: Any, __: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_hook(changed)


@contextmanager
def hooks(*handles: Any) -> Iterator[None]:
    """Forward hooks that are gone when the block ends."""

    def remove() -> None:
        for handle in handles:
            handle.remove()

    try:
        yield
    finally:
        insist(remove)
