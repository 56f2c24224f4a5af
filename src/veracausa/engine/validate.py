"""Every call checks that the engine reads this very model right, before any number is returned.

The bare model is the judge: its own logits, and its own residual stream. A hook, an adapter or a scaling that the
engine cannot see shows here as a difference, and is an error instead of a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from veracausa.errors import ContractError, NumericsError, PromptError

if TYPE_CHECKING:
    from veracausa.anatomy import Block, Decoder
    from veracausa.engine.patches import Place
    from veracausa.engine.tape import State, Tape
    from veracausa.model import Model


def rounding(dtype: torch.dtype, scale: float) -> float:
    """What rounding may do to a number of size `scale` on its way through a model.

    It grows with depth and size; half types keep three significant digits at best. A float64 model's RMS norms still
    compute in float32 (so Hugging Face writes them), where a difference in the last digit can flip one of float32.
    """
    info = torch.finfo(dtype)
    if info.bits == 64:
        return 0.1 * torch.finfo(torch.float32).eps * scale
    return (1e3 if info.bits == 32 else 4) * info.eps * scale


def require_readable(lm: Model, prompts: Sequence[Sequence[int]]) -> None:
    """Every token is in the model's vocabulary, and no prompt is longer than its position embeddings.

    Raises:
        PromptError: names the token, or the length.
    """
    vocabulary = len(lm.decoder.embeddings.weight)  # type: ignore[arg-type]
    for prompt in prompts:
        foreign = [token for token in prompt if not 0 <= token < vocabulary]
        if foreign:
            raise PromptError(
                f"{lm.name} has no token {foreign[0]}; its vocabulary is 0 … {vocabulary - 1:,}. Was the task built "
                "with another model's tokenizer?"
            )
    longest = max(len(prompt) for prompt in prompts)
    if lm.decoder.positions is not None and longest > lm.decoder.positions:
        raise PromptError(
            f"A prompt has {longest:,} tokens, but {lm.name} has embeddings for {lm.decoder.positions:,} positions. "
            "Shorten the prompts."
        )


def require_logits(lm: Model, state: State, tokens: Int[Tensor, "examples answers"]) -> None:
    """The logits that we read off the final residual are the bare model's, at the answer tokens.

    Raises:
        NumericsError: they are not finite although the residual stream is.
        ContractError: they differ by more than rounding.
    """
    if state.logits is None:
        return
    ours, bare = lm.decoder.logits(state.last.detach(), tokens), state.logits.detach().gather(1, tokens)
    if not (torch.isfinite(ours).all() and torch.isfinite(bare).all()):
        raise NumericsError(
            "NaN or infinity in the logits, although the residual stream is finite. Check the weights of the final "
            "norm and of the unembedding."
        )
    worst = float((ours - bare).abs().max())
    if not worst <= rounding(lm.dtype, 1 + float(bare.abs().max())):
        raise ContractError(
            f"The logits that veracausa reads off {lm.name} differ from the bare model's by {worst:.3g}: the model "
            "scales or changes them in a way that the engine does not know (a hook on the unembedding, a logit scale), "
            "so nothing is returned. Run lm.check() and report what it prints."
        )


def require_run(lm: Model, ours: Float[Tensor, " examples"], bare: Float[Tensor, " examples"], logits: Tensor) -> None:
    """M of the engine's unpatched run is M of the bare model's; `logits` say how large rounding may be.

    Raises:
        ContractError: they differ by more than rounding, so the engine misreads this model.
    """
    worst = float((ours - bare).abs().max())
    if not worst <= rounding(lm.dtype, 1 + float(logits.abs().max())):
        raise ContractError(
            f"The engine's unpatched run of {lm.name} gives a metric that differs from the bare model's by "
            f"{worst:.3g}: its effects would be wrong, so nothing is returned. Run lm.check() and report what it "
            "prints."
        )


def require_sites(lm: Model, tape: Tape, place: Place) -> None:
    """What units at `place` write, by the weights, is what the stream receives.

    A patch changes the stream by Δ · W_O or Δ · W_down. Here Δ is the difference between the clean and the corrupted
    run, in two positions, and the stream's own difference the judge. So a factor behind the site (a hook, an unmerged
    adapter, a family read wrong) is an error, while a constant that a steering hook adds is part of the model.

    Raises:
        ContractError: names the block and the part.
    """
    if place == "residual":
        return
    with torch.no_grad():
        for block in lm.decoder.blocks:
            part, error, scale = _misread(lm.decoder, block, tape, place)
            if not error <= rounding(lm.dtype, scale):
                raise ContractError(
                    f"{part} of block {block.layer} of {lm.name} does not write what its weights say (off by "
                    f"{error:.3g}), so patches there would be wrong and nothing is returned. Is there a hook or an "
                    "unmerged adapter on it? Remove the hook, or merge the adapter (merge_and_unload). If there is "
                    "none, run lm.check() and report what it prints."
                )


def _misread(decoder: Decoder, block: Block, tape: Tape, place: Place) -> tuple[str, float, float]:
    """(part, largest error, size of the numbers) of one block's writes, as differences between the two runs."""
    layer, attention = block.layer, place not in ("neurons", "mlp")
    output = _ends(tape, lambda state: state.sites["attention" if attention else "mlp"][layer])
    if place != "mlp":
        site = _ends(tape, lambda state: state.sites["z" if attention else "neurons"][layer])
        by_weights = (site[0] - site[1]) @ (block.head_weights if attention else block.neuron_weights)
        error, scale = _difference(by_weights, output)
        if not error <= rounding(output.dtype, scale):
            return f"The {'attention output' if attention else 'down'} projection", error, scale
    if block.parallel and not attention:
        return "The MLP", 0.0, 1.0  # the attention writes at the same time; `require_run` sees the sum
    early = attention or block.parallel
    before = _ends(tape, lambda state: state.residual[layer] if early else state.middle[layer])
    after = _ends(
        tape,
        lambda state: state.middle[layer] if attention and not block.parallel else state.residual[layer + 1],
    )
    write = block.attention_write(output) if attention else block.mlp_write(output)
    if block.parallel:
        write = write + block.feed_forward(before)
    new = before + write
    return ("The attention" if attention else "The MLP"), *_difference(new[0] - new[1], after)


def _ends(tape: Tape, of: Callable[[State], Tensor]) -> Tensor:
    """Activations [run, position, …] of the first example, both runs, at the first and last recorded position."""
    return torch.stack([of(state)[0, [0, -1]].detach() for state in (tape.clean, tape.corrupted)])


def _difference(ours: Tensor, runs: Tensor) -> tuple[float, float]:
    """Largest error of a difference between the runs, and the size of the numbers that it was taken from."""
    return float((ours - (runs[0] - runs[1])).abs().max()), float(runs.abs().max()) + 1e-6
