"""Activations at a site of the bare model, read and put in place by plain hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from veracausa.anatomy import Block
from veracausa.dictionaries import Site
from veracausa.engine.guard import borrowed, changing, giving, hooks
from veracausa.engine.overrides import between
from veracausa.engine.validate_prompts import require_readable
from veracausa.errors import MethodError
from veracausa.model import Model
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import encode_prompt, tokenizer_of

if TYPE_CHECKING:
    from jaxtyping import Float

#: What is done with a site's activations, [rows, positions, width], and what then stands there.
Change = Callable[[Tensor], Tensor]
#: Tokens that run together, and the length at which texts are cut.
TOGETHER, LENGTH = 2048, 128


class _Stop(Exception):
    """Nothing behind this block is needed."""


def at_site(lm: Model, site: Site, change: Change) -> list[Any]:
    """Hooks that hand a site's activations to `change`, and put what that gives in their place."""
    decoder = lm.decoder
    if site.kind == "r":
        return _before(decoder.final_norm if site.layer == lm.layers else decoder.blocks[site.layer].module, change)
    block, sized = decoder.blocks[site.layer], list[Any]()
    if decoder.anatomy.joins_rows and site.kind in ("m", "n", "mid"):
        sized, change = _apart(block, change)
    return [*sized, *_in_block(block, site, change)]


def _in_block(block: Block, site: Site, change: Change) -> list[Any]:
    if site.kind == "mid":
        return between(block, change)
    if site.kind in "zn":
        return _before(block.attention_out if site.kind == "z" else block.mlp_start, change)
    if site.kind == "a":
        return [changing((block.attention_post_norm if site.post else None) or block.attention_out, change)]
    return [changing((block.mlp_post_norm if site.post else None) or block.mlp_end, change)]


def _apart(block: Block, change: Change) -> tuple[list[Any], Change]:
    """Hooks, and a change that is given rows and positions apart where a block joins them for its MLP."""
    shape: list[torch.Size] = []

    def sized(_: Any, args: tuple[Tensor, ...]) -> None:
        shape[:] = [args[0].shape[:2]]

    def changed(x: Tensor) -> Tensor:
        return change(x.unflatten(0, shape[0])).flatten(0, 1) if x.ndim == 2 else change(x)

    return [block.attention_norm.register_forward_pre_hook(sized)], changed


def _before(module: nn.Module, change: Change) -> list[Any]:
    return [module.register_forward_pre_hook(giving(change), with_kwargs=True)]


def prompts_of(lm: Model, texts: Task | Sequence[str | Sequence[int]]) -> list[tuple[int, ...]]:
    """Token ids of a task's prompts (clean ones, then corrupted ones), of texts (cut at 128 tokens), or ids as given.

    Raises:
        MethodError: there are none, or none of at least two tokens.
    """
    if isinstance(texts, Task):
        found = list(dict.fromkeys((*texts.clean, *texts.corrupted)))
    else:
        found = [piece for i, text in enumerate(texts) for piece in _pieces(lm, text, i)]
    found = [prompt for prompt in found if len(prompt) > 1]
    if not found:
        raise MethodError("There is no text of at least two tokens; give a task, or a list of texts.")
    require_readable(lm, found)
    return found


def _pieces(lm: Model, text: str | Sequence[int], i: int) -> Iterator[tuple[int, ...]]:
    if not isinstance(text, str):
        yield tuple(int(token) for token in text)
        return
    ids = encode_prompt(tokenizer_of(lm), text, f"text {i}")
    yield from (ids[start : start + LENGTH] for start in range(0, len(ids), LENGTH))


def batches(prompts: Sequence[tuple[int, ...]]) -> Iterator[list[tuple[int, ...]]]:
    """Prompts of one length together, in the order of their lengths."""
    for length in sorted({len(prompt) for prompt in prompts}):
        own, rows = [prompt for prompt in prompts if len(prompt) == length], max(1, TOGETHER // length)
        yield from (own[start : start + rows] for start in range(0, len(own), rows))


@torch.no_grad()
def activations(
    lm: Model, prompts: Sequence[tuple[int, ...]], sites: Sequence[Site], *, start: int = 0
) -> Mapping[Site, Float[Tensor, "tokens width"]]:
    """Activations of all tokens at sites, prompt by prompt in the order of their lengths; `start`: from which token on.
    A run stops behind the last
       site.
    """
    found: dict[Site, list[Tensor]] = {site: [] for site in sites}
    end = max(site.layer for site in sites)

    def keep(site: Site) -> Change:
        def kept(x: Tensor) -> Tensor:
            found[site].append(x[:, start:].flatten(0, 1).to(lm.score_dtype))
            return x

        return kept

    def stop(_: Any, __: Any) -> None:
        raise _Stop

    with borrowed(lm.decoder), torch.no_grad():
        ends = [lm.decoder.blocks[end + 1].module.register_forward_pre_hook(stop)] if end + 1 < lm.layers else []
        with hooks(*(hook for site in sites for hook in at_site(lm, site, keep(site))), *ends):
            for rows in batches(prompts):
                run(lm, rows)
    return {site: torch.cat(kept) for site, kept in found.items()}


def run(lm: Model, rows: Sequence[tuple[int, ...]]) -> Tensor | None:
    """Logits of prompts of one length by the bare model; None where a hook stopped it."""
    try:
        found: Tensor = lm.hf(torch.tensor(rows, device=lm.device), use_cache=False).logits
        return found
    except _Stop:
        return None
