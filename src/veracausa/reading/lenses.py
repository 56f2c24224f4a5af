"""What `vc.reading.lens` finds: metric, probability, rank and likeliest tokens at every point of the stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from veracausa.cost import Cost
from veracausa.errors import MethodError
from veracausa.result import Shown
from veracausa.statistics.means import standard_error
from veracausa.storage.files import at, read_tensors, write_tensors
from veracausa.storage.schema import MODEL, TASK, cost, many, mapped, reading, record, require_tensors, text
from veracausa.words import counted, plain, signed

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float, Int

FORMAT = "veracausa-lens-1"
_HEADER = record(
    points=many(text, least=1), runs=many(text, least=1), vocabulary=mapped(text), settings=record(), model=MODEL,
    task=TASK, cost=cost,
)  # fmt: skip
_FIGURES = ("metric", "probability", "rank")


@dataclass(frozen=True, eq=False)
class Lens(Shown):
    """The stream at every point, read by the final norm and the unembedding; made by `vc.reading.lens`.

    `points`: "r9" is the stream that enters block 9, "r9+a9" the same with what that block's attention writes; the last
    is the end of the stream. `runs`: "clean" and, where there is one, "corrupted". `metric`, `probability` (of the
    correct answers together) and `rank` (of the likeliest of them; 1: no token is likelier): [runs, points, examples],
    the last two means over the positions that are read, NaN where the task names no answer or they were not asked for.
    `tokens`: ids of the likeliest, [runs, points, examples, places, top], −1 where a prompt has fewer places.

    >>> found = vc.reading.lens(lm, task)
    >>> found.pair(0)
    """

    points: tuple[str, ...]
    runs: tuple[str, ...]
    metric: Float[Tensor, "runs points examples"]
    probability: Float[Tensor, "runs points examples"]
    rank: Float[Tensor, "runs points examples"]
    tokens: Int[Tensor, "runs points examples places top"]
    vocabulary: Mapping[int, str]
    settings: dict[str, Any]
    model: dict[str, str]
    task: dict[str, Any]
    cost: Cost

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.metric.shape[2]

    @property
    def depths(self) -> Float[np.ndarray, " points"]:
        """Where each point is, in layers: 9 for "r9", 9.5 for "r9+a9"."""
        return np.array([int(name[1:].partition("+")[0]) + 0.5 * ("+" in name) for name in self.points])

    @property
    def answered(self) -> bool:
        """Whether the answers' probability and rank are known."""
        return bool(self.rank.isfinite().all())

    def table(self) -> pd.DataFrame:
        """One row per run and point: mean metric, its standard error, and what the answers' probability is.

        `rank`: the median over pairs; `right`: the share of pairs whose answer is the likeliest token; `token`: the one
        that is likeliest in the most pairs (at the last position that is read), and `in`: in how many of them.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "run": name, "point": point, "layer": self.depths[p], "metric": float(self.metric[run, p].mean()),
                    "stderr": float(standard_error(self.metric[run, p][:, None])),
                    "probability": float(self.probability[run, p].mean()),
                    "rank": float(self.rank[run, p].double().quantile(0.5)),
                    "right": float((self.rank[run, p] == 1).double().mean()) if self.answered else float("nan"),
                    **self._commonest(run, p), "n": self.n,
                }
                for run, name in enumerate(self.runs)
                for p, point in enumerate(self.points)
            ]
        )  # fmt: skip

    def pair(self, example: int, place: int = -1) -> pd.DataFrame:
        """One row per run and point of a pair: its figures, and the likeliest tokens at one of its positions.

        `place`: which of the positions that are read, in their order.

        Raises:
            MethodError: there is no such pair or position.
        """
        import pandas as pd

        if not -self.n <= example < self.n:
            raise MethodError(f"There is no pair {example}: this lens has {self.n}, counted from 0.")
        own = self._places(example)
        if not -own <= place < own:
            raise MethodError(f"place={place}: pair {example} is read at {counted(own, 'position')}, counted from 0.")
        return pd.DataFrame(
            [
                {
                    "run": name, "point": point,
                    **{figure: float(getattr(self, figure)[run, p, example]) for figure in _FIGURES},
                    "tokens": [self.vocabulary[t] for t in self.tokens[run, p, example, place % own].tolist()],
                }
                for run, name in enumerate(self.runs)
                for p, point in enumerate(self.points)
            ]
        )  # fmt: skip

    def _places(self, example: int) -> int:
        """At how many positions a pair is read; 1 where no tokens were kept."""
        if not self.tokens.shape[-1]:
            return 1
        return int((self.tokens[0, 0, example, :, 0] >= 0).sum())

    def _commonest(self, run: int, point: int) -> dict[str, Any]:
        if not self.tokens.shape[-1]:
            return {}
        last = [self.tokens[run, point, i, self._places(i) - 1, 0].item() for i in range(self.n)]
        ((token, count),) = Counter(last).most_common(1)
        return {"token": self.vocabulary[int(token)], "in": count}

    def half(self) -> str | None:
        """The point from which on at least half of the mean gap is there, of clean prompts alone of the mean metric.

        None if that is 0 in the end.
        """
        means = (self.metric[0] - self.metric[1] if len(self.runs) > 1 else self.metric[0]).mean(1).double().numpy()
        if not means[-1]:
            return None
        below = np.flatnonzero(means / means[-1] < 0.5)
        return self.points[int(below[-1]) + 1 if len(below) else 0]

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the stream says early, late, and from where on, made from the numbers."""
        means, name = self.metric.mean(2).double(), self.task["metric"]
        ends = "; ".join(
            f"{run} {signed(float(own[0]), 2)} at {self.points[0]}, {signed(float(own[-1]), 2)} at {self.points[-1]}"
            for run, own in zip(self.runs, means, strict=True)
        )
        said = [f"Mean {name} of the stream as the final norm and the unembedding read it: {ends}."]
        if (point := self.half()) is not None:
            what = "of the gap between clean and corrupted prompts" if len(self.runs) > 1 else "of it"
            said.append(f"At least half {what} is there from {point} on.")
        if self.answered:
            said.append(self._answer())
        return tuple(said)

    def _answer(self) -> str:
        right = (self.rank[0] == 1).double().mean(1)
        count, end = int((self.rank[0, -1] == 1).sum()), self.points[-1]
        text = f"The correct answer is the likeliest token of {count} of {counted(self.n, 'clean prompt')} at {end}"
        behind = np.flatnonzero((right <= 0.5).numpy())
        first = int(behind[-1]) + 1 if len(behind) else 0
        if first < len(self.points) - 1:
            text += f", and of more than half of them from {self.points[first]} on"
        return f"{text}; its mean probability there is {plain(float(self.probability[0, -1].mean()), 3)}."

    def describe(self) -> str:
        """What these numbers are: model, task, how they were read, n, cost."""
        return "\n".join(
            [
                f"logit lens · {len(self.points)} points of the stream, {' and '.join(self.runs)} prompts",
                f"model   {self.model['source']}",
                f"task    {self.task['description']}",
                "read    by the model's own final norm and unembedding, each point at its own size",
                f"n       {counted(self.n, 'pair')}",
                f"cost    {self.cost.describe()}",
            ]
        )

    def __repr__(self) -> str:
        return "\n".join([self.describe(), *(f"  {sentence}" for sentence in self.sentences)])

    def save(self, path: str | Path) -> Path:
        """Write a safetensors file with a JSON header, whole or not at all; `vc.open` reads it."""
        header: dict[str, Any] = {name: getattr(self, name) for name in ("points", "runs", "settings", "model", "task")}
        header |= {"vocabulary": {str(token): word for token, word in self.vocabulary.items()}}
        tensors = {name: getattr(self, name) for name in (*_FIGURES, "tokens")}
        return write_tensors(path, FORMAT, header | {"cost": self.cost.to_dict()}, tensors)


def load_lens(path: str | Path) -> Lens:
    """Read what `Lens.save` wrote.

    Raises:
        FileError: no such file, damaged, cut short, or of another kind.

    >>> vc.open("lens.safetensors").table()
    """
    header, tensors = read_tensors(path, FORMAT)
    with reading(at(path)):
        found = _HEADER(header)
        wanted = {"metric": "finite runs points examples", "tokens": "index runs points examples places top"}
        wanted |= dict.fromkeys(("probability", "rank"), "float runs points examples")
        require_tensors(tensors, wanted, runs=len(found["runs"]), points=len(found["points"]))
        found["vocabulary"] = {int(token): word for token, word in found["vocabulary"].items()}
        if missing := set(tensors["tokens"].unique().tolist()) - {-1} - set(found["vocabulary"]):
            raise ValueError(f"token {min(missing)} has no text")
        if not all(name[:1] == "r" and name[1:].partition("+")[0].isdigit() for name in found["points"]):
            raise ValueError("its points are no places of the stream")
        names = ("points", "runs", "vocabulary", "settings", "model", "task", "cost")
        parts: dict[str, Any] = {name: tensors[name] for name in wanted} | {name: found[name] for name in names}
        return Lens(**parts)
