"""`vc.reading.dla`: direct logit attribution, what every write to the stream adds to the logits that the metric reads.

The formula is in `reading.frozen`. How it stands to effects: `vc.effects.direct` and edges "u->logits" take a write out
and let the final norm divide by what is left. With M = k + T (k: the constants), a write's contribution C and the
denominators s with it and s′ without,

    direct effect of zero ablation = s / s′ · (T − C) − T

which is −C where the norm's denominator does not change (s = s′; always, where there is no norm).

Cost: one recorded run of each prompt; nothing is run again. Reading multiplies each layer's W_O (of split layers the
down projection, too) with one vector for every position that is read: under 1 % of a forward pass over 15 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.arguments import shown
from veracausa.engine.bucket import Bucket
from veracausa.engine.guard import precision_of
from veracausa.engine.validate import rounding
from veracausa.engine.work import gives
from veracausa.errors import ContractError, MethodError, UnitError
from veracausa.reading.attributions import LogitAttribution
from veracausa.reading.both_runs import BothRuns
from veracausa.reading.frozen import SITES, Frozen
from veracausa.reading.raising import raised
from veracausa.scores.scores import task_header

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Metrics that are sums of logits, so that what writes add to them adds up.
LINEAR = ("logit_diff", "logit")


@dataclass(frozen=True, eq=False)
class LogitAttributionWork(BothRuns):
    """What `dla` is about to do. `neurons`: layers whose MLPs are split; `positions`: whether heads are, by key;
    `raised_kept`: how many of the tokens that each write raises are."""

    neurons: tuple[int, ...]
    positions: bool
    raised_kept: int = 0

    @property
    def floats(self) -> int:
        """See `BothRuns`."""
        decoder = self.lm.decoder
        z = max(decoder.heads * decoder.head_dim, decoder.channels)
        own = z + 2 * decoder.width + (decoder.neurons if self.neurons else 0)
        return own + (decoder.heads * max(self.task.lengths) if self.positions else 0)

    @property
    def sites(self) -> tuple[str, ...]:
        """What is recorded."""
        return (*SITES, *(("neurons",) if self.neurons else ()), *(("pattern",) if self.positions else ()))

    def run(self, show_progress: bool = True, out: str | Path | None = None) -> LogitAttribution:
        """Record both runs and split what is read of them; nothing is kept on the way."""
        task, n = self.task, len(self.task)
        names: list[str] = []
        found: dict[str, Tensor] = {"total": self.blank(n), "metric": self.blank(n)}

        def split(bucket: Bucket) -> None:
            for run, state in enumerate(self.states(bucket)):
                frozen = Frozen.of(bucket, state)
                parts = list(frozen.parts(self.neurons))
                if not names:
                    names.extend(name for own, _ in parts for name in own)
                    found["values"] = self.blank(n, len(names))
                    if self.positions:
                        found["where"] = self.blank(n, len(names), max(task.lengths))
                by_place = torch.cat([values for _, values in parts], -1)
                values, index = by_place.sum(1), bucket.index
                self._require_sum(bucket, frozen.total, values)
                found["values"][run, index] = values.to(found["values"])
                found["total"][run, index] = frozen.total.to(found["total"])
                found["metric"][run, index] = bucket.read.of_state(state).to(found["metric"])
                if self.raised_kept and run == 0:
                    best = raised(frozen, self.raised_kept, self.neurons)
                    kept = found.setdefault("tokens", best.new_full((n, *best.shape[1:]), -1))
                    kept[index] = best
                if self.positions:
                    length = bucket.tape.length
                    found["where"][run, index, :, :length] = self._where(frozen, by_place).to(found["where"])

        with self.calling(show_progress) as call:
            places = (
                "z",
                *(("channels",) if self.lm.decoder.has_mixers else ()),
                *(("neurons",) if self.neurons else ()),
            )
            self.each(call, f"logit attribution of {n:,} pairs", split, self.sites, places)
        return LogitAttribution(
            names=tuple(names), runs=self.runs, values=found["values"], total=found["total"], metric=found["metric"],
            where=found.get("where"), tokens=found.get("tokens"), settings=self._settings(), model=call.origin,
            task=task_header(task), cost=call.cost,
            vocabulary=self.strings(found["tokens"]) if "tokens" in found else {},
        )  # fmt: skip

    def _settings(self) -> dict[str, object]:
        cap = self.lm.decoder.logit_softcap
        return {
            "norm": "frozen at each run's own",
            "logits": "as they are" if cap is None else f"before their cap at {cap:g}",
            "neurons": list(self.neurons),
        }

    def _where(self, frozen: Frozen, by_place: Tensor) -> Tensor:
        """By position, [examples, writes, positions]: a head's keys, the positions that are read of all else.

        (A mixer has no pattern over positions, so what it writes stands where it is read.)
        """
        bucket, blocks = frozen.bucket, self.lm.decoder.blocks
        length = bucket.tape.length
        found = by_place.new_zeros(len(bucket.every), by_place.shape[2], length)
        at = bucket.read.places + length - bucket.tape.tail
        found.scatter_add_(2, at[:, None].expand(-1, found.shape[1], -1), by_place.transpose(1, 2))
        first = 1
        for layer in range(self.lm.layers):
            for part in blocks[layer].mixers:
                heads = self.lm.decoder.writers_of(part)
                if part.mixing == "attention":
                    keys = frozen.by_key(layer).sum(1)
                    _require_close(self.lm, keys.sum(-1), found[:, first : first + heads].sum(-1), "its keys")
                    found[:, first : first + heads] = keys
                first += heads + (part.head_map.bias is not None)
            first += self._behind(layer)
        return found

    def _behind(self, layer: int) -> int:
        """How many rows of a layer its MLP has."""
        block = self.lm.decoder.blocks[layer]
        if layer in self.neurons:
            return self.lm.neurons + (block.neuron_map.bias is not None)
        return int(block.has_mlp)

    def _require_sum(self, bucket: Bucket, total: Tensor, values: Tensor) -> None:
        _require_close(self.lm, values.sum(-1), total, "the writes", float(values.abs().sum(-1).max()))


def _require_close(lm: Model, ours: Tensor, theirs: Tensor, what: str, scale: float = 1.0) -> None:
    """ContractError where a sum is not what it is the sum of, beyond rounding."""
    off = float((ours - theirs).abs().max())
    if not off <= rounding(precision_of(lm.decoder).dtype, 1 + scale + float(theirs.abs().max()), lm.layers):
        raise ContractError(
            f"The contributions of {what} add up to {off:.3g} more or less than what they are parts of, so nothing is "
            "returned. Is there a hook that changes the stream between the blocks, or a module that is not what its "
            "weights say? Run lm.check() and report what it prints."
        )


@gives(LogitAttribution)
def dla(
    lm: Model,
    task: Task,
    *,
    neurons: Sequence[int] | None = None,
    positions: bool = False,
    tokens: int = 0,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> LogitAttributionWork:
    """Direct logit attribution: what each head, mixer and MLP, the embeddings and the constants add to the logits read.

    The final norm is frozen at each run's own denominator, so that contributions (constants included) add up to the
    logit difference: exactly, which is checked. A contribution is a part of this run's logits, not an effect: taking
    the write out changes the norm, too (`vc.effects.direct`), and what later layers do (`vc.exact`).

    Args:
        lm: the model.
        task: prompts, with metric "logit_diff" or "logit"; without a counterpart the clean prompts alone.
        neurons: layers whose MLPs are split into their neurons (and the bias behind them).
        positions: also by position: heads by the key that they bring it from, all else by the position that is read.
        tokens: also keep so many of the tokens that each head, mixer and MLP raises most in the clean run
            (`raised()`), which multiplies every write with the whole unembedding.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `LogitAttribution`: of both runs, in logits. Where logits are capped (Gemma 2) these are those before the cap.

    Raises:
        MethodError: a metric that is no sum of logits; fewer than 0 tokens. UnitError: no such layer.
        ContractError: the contributions do not add up. NumericsError, OutOfMemoryError: see each message.

    Source: direct logit attribution (Elhage et al. 2021; Wang et al. 2022).

    >>> vc.reading.dla(lm, vc.tasks.ioi(lm, n=8)).top(5)
    """
    require_linear(task.metric)
    lm.decoder.require_stream_alone("direct logit attribution")
    if task.over == "product":
        raise MethodError(
            "The product over several positions is no sum of logits. Read the task with over='mean' or 'sum'."
        )
    layers = tuple(dict.fromkeys(() if neurons is None else neurons))
    if layers:
        lm.decoder.require("neurons")
    if wrong := [layer for layer in layers if not 0 <= layer < lm.layers]:
        raise UnitError(
            f"neurons={list(layers)}: {lm.name} has no layer {wrong[0]}; its layers are 0 … {lm.layers - 1}."
        )
    if wrong := [layer for layer in layers if layer not in lm.decoder.layers_with("mlp")]:
        raise UnitError(f"neurons={list(layers)}: block {wrong[0]} of {lm.name} has no MLP.")
    most = lm.decoder.unembedding_map.weight.shape[1]
    if not 0 <= tokens <= most:
        raise MethodError(f"tokens={shown(tokens)}: give how many tokens to keep of each write, from 0 to {most:,}.")
    return LogitAttributionWork(lm, task, layers, positions, tokens)


def require_linear(metric: str) -> None:
    """MethodError unless this is the name of a sum of logits."""
    if metric not in LINEAR:
        raise MethodError(
            f"The metric {metric} is no sum of logits, so what writes add to it does not add up. Use "
            f"task.with_metric({' or '.join(map(repr, LINEAR))}); vc.effects.direct has direct effects on others."
        )
