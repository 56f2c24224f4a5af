"""What `vc.reading.dla` finds: contributions of every write to the logits that the metric reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from veracausa.cost import Cost
from veracausa.errors import MethodError, UnitError
from veracausa.result import Shown
from veracausa.statistics.means import standard_error
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, mapped, reading, record, require_tensors, text
from veracausa.suggestions import did_you_mean
from veracausa.words import counted, listed, share, signed

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int

FORMAT = "veracausa-logit-attribution-1"
_HEADER = record(
    names=many(text, least=1), runs=many(text, least=1), settings=record(norm=text, logits=text), model=MODEL,
    task=TASK, cost=cost,
)  # fmt: skip
#: Kind of a row → what its names look like. Rows of no kind are constants.
KINDS = {
    "heads": re.compile(r"a(\d+)\.h\d+"), "mixers": re.compile(r"x(\d+)(?:\.h\d+)?"),
    "mlps": re.compile(r"m(\d+)"), "neurons": re.compile(r"m(\d+)\.n\d+"),
    "biases": re.compile(r"[amx](\d+)\.bias"), "embeddings": re.compile(r"input"),
}  # fmt: skip
CONSTANTS = "constants"
#: Kinds whose writes' tokens can be told.
_WRITERS = ("heads", "mixers", "mlps")
#: Writes that a sentence names.
_NAMED = 4


@dataclass(frozen=True, eq=False)
class LogitAttribution(Shown):
    """What each write adds to the logits that the metric reads; made by `vc.reading.dla`.

    `names`: "input" (the embeddings), "a9.h6", "a9.bias", "m9" (or its "m9.n12" and "m9.bias"), "norm.bias" and
    "unembedding.bias". `values`: [runs, examples, names], in logits; positive: for the correct answer. They add up to
    `total` [runs, examples], which is the `metric` before logits are capped. `where`: the same by position, [runs,
    examples, names, positions], if it was asked for: of heads by the key, of all else by the position that is read; NaN
    behind a prompt's end. `tokens`: ids of those that each of the `writers` raises most in the clean run, if asked for.

    >>> found = vc.reading.dla(lm, task)
    >>> found.top(5)
    """

    names: tuple[str, ...]
    runs: tuple[str, ...]
    values: Float[Tensor, "runs examples names"]
    total: Float[Tensor, "runs examples"]
    metric: Float[Tensor, "runs examples"]
    where: Float[Tensor, "runs examples names positions"] | None
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost
    tokens: Int[Tensor, "examples writers top"] | None = None
    vocabulary: Mapping[int, str] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.values.shape[1]

    @property
    def kinds(self) -> list[str]:
        """The kind of every row: "heads", "mixers", "mlps", "neurons", "biases", "embeddings" or "constants"."""
        return [kind_of(name)[0] for name in self.names]

    @property
    def difference(self) -> Float[Tensor, "examples names"]:
        """What each write adds to M(clean) − M(corrupted), each run with its own norm; of clean prompts alone to M."""
        return self.values[0] - self.values[1] if len(self.runs) > 1 else self.values[0]

    @property
    def said(self) -> str:
        """What `difference` adds up to, in words."""
        return "clean − corrupted" if len(self.runs) > 1 else "clean"

    def of(self, name: str) -> Float[Tensor, "runs examples"]:
        """A row of every run and pair.

        Raises:
            UnitError: there is no such row.
        """
        return self.values[..., self._find(name)]

    @property
    def writers(self) -> tuple[str, ...]:
        """Heads, mixers and whole MLPs, in order."""
        return tuple(name for name, kind in zip(self.names, self.kinds, strict=True) if kind in _WRITERS)

    def raised(self, name: str, pair: int = 0) -> list[str]:
        """The tokens whose logits a head, a mixer or an MLP raises most in a pair's clean run, the most raised first.

        Raises:
            MethodError: tokens were not asked for. UnitError: there is no such write.

        >>> vc.reading.dla(lm, task, tokens=5).raised("a23.h3")
        """
        if self.tokens is None:
            raise MethodError("This attribution has no tokens. Call vc.reading.dla(…, tokens=5).")
        if name not in self.writers:
            raise UnitError(f"There is no {name!r} among these writers.{did_you_mean(name, self.writers)}")
        return [self.vocabulary[token] for token in self.tokens[pair, self.writers.index(name)].tolist()]

    def _find(self, name: str) -> int:
        if name not in self.names:
            raise UnitError(
                f"There is no {name!r} among these {len(self.names)} writes.{did_you_mean(name, self.names)}"
            )
        return self.names.index(name)

    def table(self) -> pd.DataFrame:
        """One row per write: its mean contribution in each run with its standard error, and of the difference."""
        import pandas as pd

        columns: dict[str, Any] = {"name": self.names, "kind": self.kinds}
        columns["layer"] = [kind_of(name)[1] for name in self.names]
        for name, values in zip(self.runs, self.values, strict=True):
            columns |= {
                name: values.mean(0).double().numpy(),
                f"{name} stderr": standard_error(values).double().numpy(),
            }
        if len(self.runs) > 1:
            columns["difference"] = self.difference.mean(0).double().numpy()
            columns["stderr"] = standard_error(self.difference).double().numpy()
        return pd.DataFrame(columns | {"n": self.n})

    def top(self, k: int = 10) -> pd.DataFrame:
        """The rows of the k strongest writes (of the difference where there are two runs), constants left out."""
        table = self.table()
        column = "difference" if len(self.runs) > 1 else "clean"
        table = table[table["kind"] != CONSTANTS]
        return table.sort_values(column, key=abs, ascending=False, kind="stable")[:k].reset_index(drop=True)

    def by_position(self, name: str, run: str = "clean") -> pd.DataFrame:
        """One row per position: what a write adds from there, mean over the pairs that are so long.

        Raises:
            MethodError: positions were not asked for, or there is no such run. UnitError: there is no such write.
        """
        import pandas as pd

        if self.where is None:
            raise MethodError("This attribution has no positions. Call vc.reading.dla(…, positions=True).")
        if run not in self.runs:
            raise MethodError(f"There is no run {run!r} here: there are {' and '.join(self.runs)}.")
        own = self.where[self.runs.index(run), :, self._find(name)]
        pairs = (~own.isnan()).sum(0)
        return pd.DataFrame(
            {
                "position": range(len(pairs)), "contribution": own.nanmean(0).double().numpy(),
                "stderr": standard_error(own).double().numpy(), "pairs": pairs.numpy(),
            }
        )  # fmt: skip

    def sums(self) -> dict[str, Float[Tensor, " examples"]]:
        """What all rows of each kind add together to the difference, in the order of the stream."""
        found: dict[str, Tensor] = {}
        for column, kind in enumerate(self.kinds):
            found[kind] = found.get(kind, 0) + self.difference[:, column]
        order = ("embeddings", "heads", "mixers", "mlps", "neurons", "biases", CONSTANTS)
        return {kind: found[kind] for kind in order if kind in found}

    @property
    def sentences(self) -> tuple[str, ...]:
        """What kinds of writes add, and the strongest of them, made from the numbers."""
        whole = self.total[0] - self.total[1] if len(self.runs) > 1 else self.total[0]
        names = {"mlps": "MLPs", "biases": "biases of the blocks", CONSTANTS: "constants behind the stream"}
        parts = [f"{names.get(kind, kind)} {signed(float(own.mean()), 2)}" for kind, own in self.sums().items()]
        strongest = [
            f"{self.names[i]} {self._share(i)}" for i in self._strongest(_NAMED)
        ]  # fmt: skip
        return (
            f"Mean {self.task['metric']} ({self.said}) {signed(float(whole.mean()), 2)} is the sum of {listed(parts)}.",
            f"The strongest writes: {listed(strongest)}.",
        )

    def _share(self, column: int) -> str:
        own = self.difference[:, column]
        return share(float(own.mean()), float(standard_error(own[:, None])), 2)

    def _strongest(self, count: int) -> Sequence[int]:
        size = self.difference.mean(0).abs().double().numpy()
        size[[kind == CONSTANTS for kind in self.kinds]] = -1
        return np.argsort(-size, kind="stable")[:count].tolist()

    def describe(self) -> str:
        """What these numbers are: model, task, what they add up to, norm, n, cost."""
        return "\n".join(
            [
                f"direct logit attribution · {counted(len(self.names), 'write')}, {' and '.join(self.runs)} prompts",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                f"sign    logits added to {self.task['metric']}; positive: for the correct answer",
                f"norm    {self.settings['norm']} denominator; logits {self.settings['logits']}; all rows add up to M",
                f"n       {counted(self.n, 'pair')}",
                f"cost    {self.cost.describe()}",
                "trust   exact parts of each run's logits; not effects of taking a write out",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in ("names", "runs", "settings", "model", "task")}
        tensors = {name: getattr(self, name) for name in ("values", "total", "metric")}
        tensors |= {} if self.where is None else {"where": self.where}
        if self.tokens is not None:
            tensors["tokens"] = self.tokens
            header["vocabulary"] = {str(token): word for token, word in self.vocabulary.items()}
        return write_tensors(path, FORMAT, header | {"cost": self.cost.to_dict()}, tensors)


def kind_of(name: str) -> tuple[str, int]:
    """The kind of a row, and its layer; −1 where it is of none."""
    for kind, pattern in KINDS.items():
        if match := pattern.fullmatch(name):
            return kind, int(match[1]) if match.lastindex else -1
    return CONSTANTS, -1


def load_logit_attribution(path: str | Path) -> LogitAttribution:
    """Read what `LogitAttribution.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("dla.safetensors").top(5)
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        wanted = {"values": "finite runs examples names", **dict.fromkeys(("total", "metric"), "finite runs examples")}
        if "where" in tensors:
            wanted["where"] = "float runs examples names positions"
        vocabulary: dict[int, str] = {}
        if "tokens" in tensors:
            wanted["tokens"] = "index examples writers top"
            vocabulary = {int(token): word for token, word in mapped(text)(header["vocabulary"]).items()}
            if missing := set(tensors["tokens"].unique().tolist()) - set(vocabulary):
                raise ValueError(f"no text of token {min(missing)}")
        require_tensors(tensors, wanted, runs=len(found["runs"]), names=len(found["names"]))
        names = ("names", "runs", "settings", "model", "task", "cost")
        parts: dict[str, Any] = {name: tensors.get(name) for name in ("values", "total", "metric", "where", "tokens")}
        made = LogitAttribution(**parts, **{name: found[name] for name in names}, vocabulary=vocabulary)
        if made.tokens is not None and made.tokens.shape[:2] != (made.n, len(made.writers)):
            raise ValueError(f"tokens of {made.tokens.shape[1]} writers of {len(made.writers)}")
        return made
