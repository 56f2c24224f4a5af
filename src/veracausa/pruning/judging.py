"""Cut models judged by exact joint removal: every cut part is gone at once, at all positions, in whole runs.

on held-out pairs    M(clean prompt), and whether the likeliest token is a right answer, pair by pair
on plain text        KL(full ‖ cut) and the cross-entropy of the next token, means over the tokens of a row, in nats
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from veracausa.cost import Cost
from veracausa.engine.guard import borrowed
from veracausa.engine.measure import measure, measured_runs
from veracausa.engine.memory import halving
from veracausa.errors import NumericsError
from veracausa.fitting.sites import run
from veracausa.pruning.cutting import BlockCut, Constants, cut_out
from veracausa.pruning.texts import Rows
from veracausa.storage.pieces import Checkpoint
from veracausa.version import __version__

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.model import Model
    from veracausa.progress import Tick
    from veracausa.tasks.task import Task

#: Numbers of logits that are held at once: 128 MB in float32, and a few times that on the way.
_LOGITS = 1 << 25


@dataclass(frozen=True, eq=False)
class Judge:
    """A model and what it is judged on; `cuts`: without which parts, the first without none.

    `asked`: all that the numbers depend on beside model, pairs and rows.
    """

    lm: Model
    tasks: tuple[Task, ...]
    rows: Rows
    cuts: Sequence[Sequence[BlockCut]]
    constants: Constants
    asked: dict[str, Any]
    cost: Cost
    tick: Tick
    out: str | Path | None = None

    def on_pairs(self, task: Task) -> Float[Tensor, "cuts 2 pairs"]:
        """M(clean) and whether it is right (NaN: not known), of every pair, cut by cut; finished cuts are kept."""
        kept = self._pieces("pruned-pairs", {"task": task.digest()}, len(task))
        for at, cut in enumerate(self.cuts):
            if not kept.done[:, 2 * at].all():
                before = self.cost.token_layers
                with self._without(cut):
                    found = measure(self.lm, task, self.cost)
                right = torch.full_like(found.clean, float("nan")) if found.right is None else found.right[0]
                self._keep(kept, slice(None), at, torch.stack([found.clean, right.to(found.clean)], -1))
                self.tick(self.cost.token_layers - before)
        self._write(kept, force=True)
        return _by_cut(kept.values)

    def on_text(self) -> Float[Tensor, "cuts 2 rows"]:
        """KL and cross-entropy of every row of plain text, cut by cut; finished rows are kept."""
        count = len(self.rows.ids)
        kept = self._pieces("pruned-text", {"text": self.rows.digest()}, count)
        if count:
            vocabulary: int = self.lm.decoder.unembedding.weight.shape[0]  # type: ignore[index, assignment]
            most = max(1, _LOGITS // (len(self.rows.ids[0]) * vocabulary))
            groups = [(0, tuple(range(first, min(first + most, count)))) for first in range(0, count, most)]
            left = [one for one in groups if not kept.done[list(one[1])].all()]
            halving(left, lambda _, rows: self._rows(kept, rows))
            self._write(kept, force=True)
        return _by_cut(kept.values)

    def _rows(self, kept: Checkpoint, rows: tuple[int, ...]) -> None:
        """All cuts on some rows; the full model's distribution is held meanwhile."""
        ids = [self.rows.ids[row] for row in rows]
        full: Tensor | None = None
        for at, cut in enumerate(self.cuts):
            with self._without(cut), borrowed(self.lm.decoder), torch.no_grad():
                logits = run(self.lm, ids)
            assert logits is not None
            said = logits[:, :-1].to(self.lm.score_dtype).log_softmax(-1)
            if not torch.isfinite(said).all():
                raise NumericsError(f"NaN or infinity in text row {rows[0]} with cut {at}. Run the model in float32.")
            full = said if full is None else full
            self._keep(kept, list(rows), at, _of_rows(full, said, torch.tensor(ids, device=said.device)))
            own = len(ids) * len(ids[0]) * self.lm.layers
            self.cost.forward += own
            self.tick(own)

    def _without(self, cut: Sequence[BlockCut]) -> Any:
        return cut_out(self.lm, cut, self.constants) if any(one.touched for one in cut) else nullcontext()

    def _pieces(self, name: str, own: dict[str, Any], rows: int) -> Checkpoint:
        """Numbers [rows, 2 · cuts], of an earlier call if there are any in the folder."""
        shape, dtype = (rows, 2 * len(self.cuts)), self.lm.score_dtype
        header = {"version": __version__, "model": self.lm.identity, **own, **self.asked}
        if self.out is not None:
            return Checkpoint.open(self.out, name, header, shape, dtype)
        blank = torch.full(shape, float("nan"), dtype=dtype)
        return Checkpoint(Path(), header, blank, torch.zeros(shape, dtype=torch.bool))

    def _keep(self, kept: Checkpoint, rows: Any, at: int, values: Tensor) -> None:
        kept.values[rows, 2 * at : 2 * at + 2] = values.to(kept.values)
        kept.done[rows, 2 * at : 2 * at + 2] = True
        self._write(kept)

    def _write(self, kept: Checkpoint, *, force: bool = False) -> None:
        if self.out is not None:
            kept.keep(force=force)


def judged_tokens(lm: Model, tasks: Sequence[Task], rows: Rows, cuts: int) -> float:
    """Token-layers of judging so many cuts, the full model among them."""
    own = sum(measured_runs(lm, task) for task in tasks)
    return cuts * (own + lm.layers * sum(map(len, rows.ids)))


def _of_rows(full: Tensor, said: Tensor, ids: Tensor) -> Float[Tensor, "rows 2"]:
    """KL(full ‖ said) and the cross-entropy of the next token, in nats a token; log-probabilities are given."""
    kl = (full.exp() * (full - said)).sum(-1).mean(1)
    entropy = -said.gather(-1, ids[:, 1:, None])[..., 0].mean(1)
    return torch.stack([kl, entropy], -1).cpu()


def _by_cut(values: Tensor) -> Float[Tensor, "cuts 2 rows"]:
    return values.unflatten(1, (-1, 2)).permute(1, 2, 0).contiguous()
