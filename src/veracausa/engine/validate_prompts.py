"""Prompts are what this very model can read: its own tokens, without padding, no longer than its positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from veracausa.errors import PromptError
from veracausa.tasks.padding import Specials
from veracausa.tasks.tokens import strings

if TYPE_CHECKING:
    from veracausa.model import Model


def require_readable(lm: Model, prompts: Sequence[Sequence[int]]) -> None:
    """Every token is in the model's vocabulary, none pads an end, and no prompt is longer than its position embeddings.

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
        _require_unpadded(lm, prompt)
    longest = max(len(prompt) for prompt in prompts)
    if lm.decoder.positions is not None and longest > lm.decoder.positions:
        raise PromptError(
            f"A prompt has {longest:,} tokens, but {lm.name} takes {lm.decoder.positions:,} positions at most (its own "
            "limit, or a window of its attention that is told to its masks alone). Shorten the prompts."
        )


def _require_unpadded(lm: Model, prompt: Sequence[int]) -> None:
    specials = Specials.of(lm.tokenizer)
    before, behind = specials.padding_before(prompt), specials.padding_behind(prompt)
    if before or behind:
        ids, end = (prompt[: before + 1], "begins with") if before else (prompt[-behind:], "ends in")
        raise PromptError(
            f"A prompt of {len(prompt)} tokens {end} {strings(lm.tokenizer, ids)}: padding, a start token too many or "
            "the end of a text, which the model would read as part of the prompt. Give a Task prompts without padding; "
            "vc.task(lm, clean=tokenizer(texts, padding=True), …) leaves it out."
        )
