"""Pairs whose two prompts have different lengths: what of one prompt corresponds to what of the other.

Spans that both prompts name correspond: token by token where they are equally long, else as `align` says:

* "last": the last token of one to the last token of the other;
* "mean": every token of one to the mean over all tokens of the other, which is an activation of neither run.

So do the tokens with which both prompts begin (from the start), and those with which they end (from the end), the last
ones always. Nothing else has a counterpart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from veracausa.choices import Align
from veracausa.errors import PromptError
from veracausa.tasks.spans import Span

#: What becomes of spans of unequal lengths.
ALIGNED: dict[Align, str] = {
    "last": "their last tokens correspond",
    "mean": "each token takes the mean over the other's tokens",
}


def shared_start(clean: Sequence[object], corrupted: Sequence[object]) -> int:
    """How many tokens both prompts begin with.

    >>> shared_start([1, 2, 3, 9], [1, 2, 4, 4, 9])
    2
    """
    pairs = enumerate(zip(clean, corrupted, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(clean), len(corrupted)))


def shared_end(clean: Sequence[object], corrupted: Sequence[object]) -> int:
    """How many tokens both prompts end with, those apart that both begin with; each prompt's last one always.

    >>> shared_end([1, 2, 3, 9], [1, 2, 4, 4, 9]), shared_end([1, 2], [1, 3, 4])
    (1, 1)
    """
    most = min(len(clean), len(corrupted)) - shared_start(clean, corrupted)
    pairs = enumerate(zip(reversed(clean), reversed(corrupted), strict=False))
    return max(1, min(most, next((k for k, (a, b) in pairs if a != b), most)))


def counterpart(at: int, clean: Sequence[int], corrupted: Sequence[int], spans: Mapping[str, Span]) -> int | None:
    """The corrupted prompt's position that corresponds to one of the clean prompt; None where none does.

    Of prompts of one length it is the same position.

    >>> counterpart(3, [1, 2, 3, 9], [1, 2, 4, 4, 9], {})
    4
    """
    if len(clean) == len(corrupted):
        return at
    if len(clean) - at <= shared_end(clean, corrupted):
        return at + len(corrupted) - len(clean)
    if (own := next((one for one in spans.values() if at in range(*one.clean)), None)) is not None:
        return at - own.clean[0] + own.corrupted[0] if own.alike else None
    return at if at < shared_start(clean, corrupted) else None


def require_aligned(
    align: Align | None, spans: Mapping[str, Span], clean: Sequence[str], corrupted: Sequence[str], where: str
) -> None:
    """PromptError for prompts of different lengths (given as their tokens' texts) that nothing aligns."""
    if align is not None and spans:
        return
    why = (
        "Choose words that tokenise to equally many tokens, or name what corresponds: spans={'subject': …}, "
        "align='last' (or 'mean'), for effects at spans."
        if align is None
        else f"align={align!r} needs a span in both: name one in this pair, too (spans=), or leave it out."
    )
    raise PromptError(
        f"{where}: the clean prompt is {len(clean)} tokens and the corrupted one {len(corrupted)}, so their positions "
        f"do not correspond\n  clean:     {list(clean)}\n  corrupted: {list(corrupted)}\n{why}"
    )
