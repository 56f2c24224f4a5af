"""How much of a site's activations a dictionary explains, and what the model does with its reconstruction.

With ŷ the reconstruction, ε = y − ŷ and ȳ the mean of y, over all tokens of the given texts but the first of each,
whose norm is like no other's in many models (where everything is put in place, it is put there, too):

* variance explained: 1 − Σ‖ε‖² / Σ‖y − ȳ‖²
* active features: mean over tokens of how many are not 0; dead: share that is 0 at every token of these texts
* cross-entropy of the next token, of the model as it is, with ŷ in the place of y, with ȳ and with 0 there;
  loss recovered: (CE with ȳ − CE with ŷ) / (CE with ȳ − CE), and the same against 0
* of a task: the metric's mean gap, as it is and with ŷ in the place of y

Everything that is put in place is put there by a plain hook on the bare model, whole runs, every position.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.dictionaries import Dictionary, Site
from veracausa.engine.guard import borrowed, hooks, unshared
from veracausa.engine.measure import measure
from veracausa.errors import MethodError
from veracausa.fitting.qualities import Quality, share_of
from veracausa.fitting.sites import Change, at_site, batches, prompts_of, run
from veracausa.loading.dictionaries.adapting import require_site
from veracausa.model import Model
from veracausa.scores.scores import task_header
from veracausa.tasks.task import Task
from veracausa.words import counted


def check(lm: Model, dic: Dictionary, texts: Task | Sequence[str | Sequence[int]]) -> Quality:
    """How good a dictionary is on a task's prompts, on texts or on token ids; see `Quality` (public as `dic.check`).

    Raises:
        MethodError: the model has no such site, or there is no text.
    """
    if dic.onward is not None:
        raise MethodError(
            f"{dic!r} explains its site together with the other layers' features; its errors are nodes of an "
            "attribution graph (vc.graphs.attribution_graph), and units: vc.exact(lm, task, units=['f…error'])."
        )
    for site, width in ((dic.reads, dic.encoder.weight.shape[0]), (dic.writes, dic.weight.shape[1])):
        require_site(lm, site, width)
    began, given, prompts = time.monotonic(), dic, prompts_of(lm, texts)
    dic = dic.to(lm.device, lm.score_dtype)
    once = lm.layers * sum(map(len, prompts))
    cost = Cost(full=once)
    with borrowed(lm.decoder), torch.no_grad():
        seen = _Seen(dic)
        bare = _entropy(lm, prompts, _watching(lm, dic, seen.add))
        mean, total = seen.mean, seen.total
        losses = [_entropy(lm, prompts, put) for put in (
            lambda: _reconstructing(lm, dic),
            lambda: at_site(lm, dic.writes, lambda y: mean.to(y.dtype).expand_as(y)),
            lambda: at_site(lm, dic.writes, torch.zeros_like),
        )]  # fmt: skip
        cost.forward += (1 + len(losses)) * once
        gaps = _gaps(lm, dic, texts, cost) if isinstance(texts, Task) and texts.paired else (None, None)
    cost.seconds = time.monotonic() - began
    with_reconstruction, with_mean, with_zero = losses
    gap, gap_kept = gaps
    return Quality(
        dictionary=repr(dic), site=dic.sites, digest=given.digest(), tokens=seen.tokens, residue=seen.residue,
        variance_explained=share_of(total - seen.left, total), active=seen.active / seen.tokens,
        dead=float((~seen.fired).double().mean()), cross_entropy=bare, with_reconstruction=with_reconstruction,
        with_mean=with_mean, with_zero=with_zero, gap=gap, gap_kept=gap_kept, model=lm.header(), cost=cost,
        task=task_header(texts) if isinstance(texts, Task) else _texts_header(prompts),
    )  # fmt: skip


def _texts_header(prompts: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    """What a result says about texts that are no task."""
    digest = hashlib.sha256(json.dumps(prompts, separators=(",", ":")).encode()).hexdigest()[:16]
    said = f"{counted(len(prompts), 'text')}, {sum(map(len, prompts)):,} tokens"
    lengths = [min(map(len, prompts)), max(map(len, prompts))]
    return {"name": "texts", "description": said, "digest": digest, "metric": "none", "n": len(prompts),
            "lengths": lengths}  # fmt: skip


class _Seen:
    """Sums over tokens, in float64."""

    def __init__(self, dic: Dictionary) -> None:
        self.dic, self.tokens, self.active, self.left, self.residue = dic, 0, 0.0, 0.0, 0.0
        self.fired = torch.zeros(dic.size, dtype=torch.bool, device=dic.weight.device)
        self.sum = torch.zeros(dic.weight.shape[1], dtype=torch.float64, device=dic.weight.device)
        self.squares = 0.0

    def add(self, x: Tensor, y: Tensor) -> None:
        self.fired |= (self.dic.encode(x[:, :1].to(self.dic.weight.dtype)) != 0).flatten(0, -2).any(0)
        x, y = (part[:, 1:].flatten(0, -2).to(self.dic.weight.dtype) for part in (x, y))
        f, error = self.dic.encode(x), self.dic.error(x, y)
        self.tokens += len(x)
        self.active += float((f != 0).sum())
        self.fired |= (f != 0).any(0)
        self.left += float(error.double().square().sum())
        self.sum += y.double().sum(0)
        self.squares += float(y.double().square().sum())
        again = self.dic.reconstruct(x) + error - y
        self.residue = max(self.residue, float(again.abs().max() / y.abs().max().clamp_min(1e-30)))

    @property
    def mean(self) -> Tensor:
        return self.sum / self.tokens

    @property
    def total(self) -> float:
        """Σ‖y − mean y‖²."""
        return self.squares - self.tokens * float(self.mean.square().sum())


def _watching(lm: Model, dic: Dictionary, look: Callable[[Tensor, Tensor], None]) -> Callable[[], list[Any]]:
    """Hooks that hand both ends of a dictionary to `look`."""
    given: dict[Site, Tensor] = {}

    def read(x: Tensor) -> Tensor:
        given[dic.reads] = x
        return x

    def write(y: Tensor) -> Tensor:
        look(given[dic.reads] if dic.transcodes else y, y)
        return y

    return lambda: [*(at_site(lm, dic.reads, read) if dic.transcodes else []), *at_site(lm, dic.writes, write)]


def _reconstructing(lm: Model, dic: Dictionary) -> list[Any]:
    """Hooks that put ŷ in the place of y."""
    given: dict[Site, Tensor] = {}

    def read(x: Tensor) -> Tensor:
        given[dic.reads] = x
        return x

    def write(y: Tensor) -> Tensor:
        x = given[dic.reads] if dic.transcodes else y
        return dic.reconstruct(x.to(dic.weight.dtype)).to(y.dtype)

    put: Change = write
    return [*(at_site(lm, dic.reads, read) if dic.transcodes else []), *at_site(lm, dic.writes, put)]


def _entropy(lm: Model, prompts: Sequence[tuple[int, ...]], put: Callable[[], list[Any]]) -> float:
    """Cross-entropy of every next token, with hooks."""
    total, count = 0.0, 0
    with hooks(*put()):
        for rows in batches(prompts):
            logits = run(lm, rows)
            assert logits is not None
            ids = torch.tensor(rows, device=logits.device)
            logprob = logits[:, :-1].to(lm.score_dtype).log_softmax(-1)
            total -= float(logprob.gather(-1, ids[:, 1:, None]).double().sum())
            count += ids[:, 1:].numel()
    return total / count


def _gaps(lm: Model, dic: Dictionary, task: Task, cost: Cost) -> tuple[float, float]:
    """The mean gap of the model as it is, and with ŷ in the place of y."""
    bare = float(measure(lm, task, cost).gap.mean())
    with unshared(lm.decoder), hooks(*_reconstructing(lm, dic)):  # what a study has recorded, it has without hooks
        return bare, float(measure(lm, task, cost).gap.mean())
