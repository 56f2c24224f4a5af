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

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.dictionaries import Dictionary, Site
from veracausa.engine.guard import borrowed, hooks
from veracausa.fitting.sites import Change, at_site, batches, prompts_of, run
from veracausa.loading.dictionaries.adapting import require_site
from veracausa.model import Model
from veracausa.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Quality:
    """Figures of one dictionary on some texts (`dic.check(lm, texts)`); NaN where there is nothing to divide by.

    `residue`: largest |ŷ + ε − y| in units of the largest |y|, which rounding alone makes. `cross_entropy` and its
    sisters: nats a token. `gap`, `gap_kept`: the metric's mean gap of the model as it is, and with ŷ; None of texts.
    """

    dictionary: str
    tokens: int
    residue: float
    variance_explained: float
    active: float
    dead: float
    cross_entropy: float
    with_reconstruction: float
    with_mean: float
    with_zero: float
    gap: float | None = None
    gap_kept: float | None = None

    @property
    def recovered(self) -> float:
        """Loss recovered, against the mean."""
        return _share(self.with_mean - self.with_reconstruction, self.with_mean - self.cross_entropy)

    @property
    def recovered_from_zero(self) -> float:
        """Loss recovered, against 0."""
        return _share(self.with_zero - self.with_reconstruction, self.with_zero - self.cross_entropy)

    def figures(self) -> dict[str, float]:
        """All numbers by name, rounded to four places."""
        found = asdict(self) | {"recovered": self.recovered, "recovered_from_zero": self.recovered_from_zero}
        return {key: round(value, 4) for key, value in found.items() if isinstance(value, (int, float))}

    def table(self) -> pd.DataFrame:
        """One row a figure, with what it is."""
        import pandas as pd

        return pd.DataFrame(self._lines(), columns=["figure", "value", "what it is"])

    def _lines(self) -> list[tuple[str, float, str]]:
        lines = [
            ("variance explained", self.variance_explained, "1 − Σ‖ε‖² / Σ‖y − mean y‖²"),
            ("active features", self.active, "mean of a token"),
            ("dead features", self.dead, "share, active at no token"),
            ("cross-entropy", self.cross_entropy, "of the model as it is, nats a token"),
            ("… with ŷ", self.with_reconstruction, "the reconstruction in the place of y"),
            ("… with the mean", self.with_mean, "y's mean at every token"),
            ("… with 0", self.with_zero, "nothing in the place of y"),
            ("loss recovered", self.recovered, "against the mean"),
            ("… against 0", self.recovered_from_zero, "against 0"),
            ("largest residue", self.residue, "|ŷ + ε − y| / largest |y|"),
        ]
        if self.gap is not None and self.gap_kept is not None:
            lines += [("gap", self.gap, "mean M(clean) − M(corrupted), of the model as it is"),
                      ("… with ŷ", self.gap_kept, "in both runs")]  # fmt: skip
        return lines

    def __repr__(self) -> str:
        rows = "\n".join(f"  {name:<20}{value:>10.4g}   {what}" for name, value, what in self._lines())
        return f"Quality of {self.dictionary} on {self.tokens:,} tokens\n{rows}"


def check(lm: Model, dic: Dictionary, texts: Task | Sequence[str | Sequence[int]]) -> Quality:
    """How good a dictionary is on a task's prompts, on texts or on token ids; see `Quality` (public as `dic.check`).

    Raises:
        MethodError: the model has no such site, or there is no text.
    """
    for site, width in ((dic.reads, dic.encoder.weight.shape[0]), (dic.writes, dic.weight.shape[1])):
        require_site(lm, site, width)
    dic, prompts = dic.to(lm.device, lm.score_dtype), prompts_of(lm, texts)
    with borrowed(lm.decoder), torch.no_grad():
        seen = _Seen(dic)
        bare = _entropy(lm, prompts, _watching(lm, dic, seen.add))
        mean, total = seen.mean, seen.total
        losses = [_entropy(lm, prompts, put) for put in (
            lambda: _reconstructing(lm, dic),
            lambda: [at_site(lm, dic.writes, lambda y: mean.to(y.dtype).expand_as(y))],
            lambda: [at_site(lm, dic.writes, torch.zeros_like)],
        )]  # fmt: skip
    gaps = _gaps(lm, dic, texts) if isinstance(texts, Task) and texts.paired else (None, None)
    explained = _share(total - seen.left, total)
    return Quality(repr(dic), seen.tokens, seen.residue, explained, seen.active / seen.tokens,
                   float((~seen.fired).double().mean()), bare, *losses, *gaps)  # fmt: skip


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

    return lambda: [*([at_site(lm, dic.reads, read)] if dic.transcodes else []), at_site(lm, dic.writes, write)]


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
    return [*([at_site(lm, dic.reads, read)] if dic.transcodes else []), at_site(lm, dic.writes, put)]


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


def _gaps(lm: Model, dic: Dictionary, task: Task) -> tuple[float, float]:
    """The mean gap of the model as it is, and with ŷ in the place of y."""
    bare = float(lm.measure(task).gap.mean())
    with hooks(*_reconstructing(lm, dic)):
        return bare, float(lm.measure(task).gap.mean())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
