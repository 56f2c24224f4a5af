"""Saturation where it happens: the attention of one head behind a unit, at the position that matters.

For the head that adds most to a unit's E − AtP: at the query position where it adds most, the entropy of the attention
−Σ p ln p (nats; also as a share of ln of the visible positions), its largest probability and the position that gets
it: in the clean run, in the corrupted run, and with the unit moved the share α of its way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from veracausa.causes.location_runs import Recorded, Seen, tangents
from veracausa.effects.rows import Rows
from veracausa.engine.attention import attention_pattern
from veracausa.engine.guard import hooks
from veracausa.engine.suffix import sweep
from veracausa.engine.tape import State

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int

    from veracausa.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Saturation:
    """One head's attention at each example's own query position.

    Columns of `entropy`, `largest` and `key`, [examples, 2 + alphas]: the clean run, the corrupted run, then the unit
    moved by each of `alphas`. `query`, `key`: positions in the prompt; `visible`: positions that the query sees.
    `texts`: each example's query token and most attended tokens, clean and with the unit replaced.
    """

    head: str
    alphas: tuple[float, ...]
    entropy: Float[Tensor, "examples points"]
    largest: Float[Tensor, "examples points"]
    key: Int[Tensor, "examples points"]
    query: Int[Tensor, " examples"]
    visible: Int[Tensor, " examples"]
    texts: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(
        cls,
        task: Task,
        head: str,
        alphas: tuple[float, ...],
        entropy: Tensor,
        largest: Tensor,
        key: Tensor,
        query: Tensor,
        visible: Tensor,
    ) -> Saturation:
        """With the tokens that each example's query attends to most, in its clean prompt."""
        places = torch.stack([query, key[:, 0], key[:, -1]], 1).tolist()
        tokens = (task.tokens(i)[0] for i in range(len(task)))
        texts = tuple(
            (own[at], own[before], own[after]) for own, (at, before, after) in zip(tokens, places, strict=True)
        )
        return cls(head, alphas, entropy, largest, key, query, visible, texts)

    @property
    def points(self) -> list[str]:
        """Names of the columns."""
        return ["clean", "corrupted", *(f"α = {alpha:g}" for alpha in self.alphas)]

    def table(self) -> pd.DataFrame:
        """One row per run: mean entropy (nats, share of ln visible), mean largest probability, standard errors, n."""
        import pandas as pd

        share = self.entropy / self.visible.clamp_min(2).log()[:, None]
        n = len(self.query)
        columns: dict[str, Any] = {"run": self.points}
        for name, values in (("entropy", self.entropy), ("entropy share", share), ("largest", self.largest)):
            columns[name] = values.mean(0).tolist()
            spread = values.std(0) / n**0.5 if n > 1 else torch.full_like(values[0], float("nan"))
            columns[f"{name} stderr"] = spread.tolist()
        return pd.DataFrame(columns | {"n": n})

    @property
    def sentence(self) -> str:
        """Entropy and largest probability, clean and replaced, in words."""
        means, n = self.table(), len(self.query)
        last = len(means) - 1
        query, before, after = (self._commonest(which) for which in range(3))
        at = f"At {query[0]!r}" + (f" (in {query[1]} of {n} pairs)" if n > 1 else "") if query else "There"
        return (
            f"{at} {self.head} puts {means['largest'][0]:.2f} on one token{_named(before)} in the clean run (entropy "
            f"{means['entropy'][0]:.2f} nats, {means['entropy share'][0]:.0%} of an even spread) and "
            f"{means['largest'][last]:.2f}{_named(after)} with the unit replaced ({means['entropy'][last]:.2f} nats, "
            f"{means['entropy share'][last]:.0%}); the corrupted run has {means['largest'][1]:.2f}."
        )

    def _commonest(self, which: int) -> tuple[str, int] | None:
        """The token that most pairs have there, and how many; None if it is no more than half of them."""
        tokens = [texts[which] for texts in self.texts]
        most = max(tokens, key=tokens.count)
        return (most, tokens.count(most)) if 2 * tokens.count(most) > len(tokens) else None


def _named(token: tuple[str, int] | None) -> str:
    return "" if token is None else f" ({token[0]!r})"


@torch.no_grad()
def watch_head(recorded: Recorded, rows: Rows, layer: int, head: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(entropy, largest, key, query, visible) of a head for a bucket; `rows`: one unit, moved by each of its alphas.

    The last alpha must be 1: there the query positions are chosen.
    """
    tape, clean, heads = recorded.bucket.tape, recorded.bucket.tape.clean, recorded.bucket.lm.heads
    seen, queries, keys = _run(recorded, rows, layer)
    query = _most_moved(recorded, rows, seen, layer, head)
    n, each = len(tape.examples), recorded.bucket.every

    def attends(queries: Tensor, keys: Tensor) -> Tensor:
        pattern = attention_pattern(queries, keys, **clean.attention[layer])
        pattern = pattern.view(-1, heads, queries.shape[2], keys.shape[2])[:, head]
        return pattern.unflatten(0, (-1, n))[:, each, query].transpose(0, 1)

    def of(state: State) -> Tensor:
        return attends(state.sites["queries"][layer], state.sites["keys"][layer])

    seen_there = torch.cat([of(clean), of(tape.corrupted), attends(queries, keys)], 1)
    entropy = -torch.special.xlogy(seen_there, seen_there).sum(-1)
    largest, key = seen_there.max(-1)
    visible = query + tape.start + 1
    if (window := clean.attention[layer].get("sliding_window")) is not None:
        visible = visible.clamp_max(window)
    if (chunk := clean.attention[layer].get("chunk")) is not None:
        visible = (visible - 1) % chunk + 1
    if clean.attention[layer].get("is_causal") is False:
        visible = torch.full_like(visible, tape.length)
    return entropy, largest, key, query + tape.start, visible


def _run(recorded: Recorded, rows: Rows, layer: int) -> tuple[Seen, Tensor, Tensor]:
    """What one block's modules got and gave, and its queries and keys (the prefix's, too), as the unit moved.

    Rows: by alpha, then by example.
    """
    lm, tape, clean = recorded.bucket.lm, recorded.bucket.tape, recorded.bucket.tape.clean
    points, block, n = len(rows.units), lm.decoder.blocks[layer], len(tape.examples)
    order = np.stack([np.tile(np.arange(n), points), np.repeat(np.arange(points), n)], 1)
    seen, given = Seen(), list[tuple[Tensor, Tensor]]()

    def keep(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "keep": lambda query, key, value, **settings: given.append((query, key))}

    watching = block.attention.register_forward_pre_hook(keep, with_kwargs=True)
    with hooks(watching, *seen.watch([block])):
        sweep(lm.decoder, tape, clean, rows.joins(tape, clean, order, tape.start), start=tape.start, cost=rows.cost)
    ((queries, keys),) = given
    example = torch.as_tensor(order[:, 0], device=lm.device)
    return seen, queries, torch.cat([clean.keys[layer][example, :, : tape.start], keys], 2)


def _most_moved(recorded: Recorded, rows: Rows, seen: Seen, layer: int, head: int) -> Int[Tensor, " examples"]:
    """The position at which a head adds most to E − AtP, where the unit went all its way (the last rows)."""
    bucket = recorded.bucket
    n = len(bucket.tape.examples)
    there = Seen({layer: seen.residual[layer][-n:]}, {layer: seen.middle[layer][-n:]})
    tangent = tangents(recorded, there, bucket.lm.decoder.blocks[layer], bucket.every)
    rows.cost.add(n, bucket.positions)
    moved = (seen.z[layer][-n:] - tangent.z[layer]) * recorded.gradients["z"][layer]
    return moved.unflatten(-1, (bucket.lm.heads, -1))[:, :, head].sum(-1).abs().argmax(-1)
