"""Where does attribution patching go wrong? The curvature E − AtP of a unit, located exactly.

Three accounts of the same number, per example:

* *by kind.* A patched run with some kinds of nonlinear parts (softmax, norm, MLP, metric; `engine.expansion`) replaced
  by their tangents at the clean run. All expanded: AtP; none: E. A kind's part is its Shapley value over the 2^k runs,
  so the parts sum to E − AtP.
* *by sublayer and head.* Increments of the first-order account T = ⟨∂M/∂r, Δr⟩ along the forward pass
  (`location_runs`), which begins at AtP and ends at E.
* *saturation.* The attention of the head with the largest increment, clean, corrupted and along the unit's own path.

Cost of a unit in layer l, per example: (2^k + 1) patched runs, (L − l) · S token-layers each, k = 3 for logit
differences and 4 for other metrics or a soft cap of the logits; and for the attention one more per α.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from veracausa.causes.location_runs import Recorder, run_rows
from veracausa.causes.locations import Locations
from veracausa.causes.saturation import Saturation, watch_head
from veracausa.cost import Cost
from veracausa.dictionaries.words import is_coded
from veracausa.effects.laid import laid_units
from veracausa.effects.replacements import Counterfactual
from veracausa.effects.rows import Rows
from veracausa.engine.attention import SUFFIX
from veracausa.engine.batches import buckets
from veracausa.engine.budget import examples_per_batch, rows_per_chunk
from veracausa.engine.expansion import kinds_of
from veracausa.engine.guard import attention_function
from veracausa.engine.measure import measured_runs
from veracausa.engine.memory import chunks, halving, memory_errors
from veracausa.engine.patches import where
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives
from veracausa.errors import ArchitectureError, MethodError, NumericsError
from veracausa.scores.headers import dictionary_settings
from veracausa.scores.scores import task_header
from veracausa.tasks.metrics import flat_where_clean
from veracausa.units.groups import Groups
from veracausa.units.table import Units

if TYPE_CHECKING:
    from jaxtyping import Float

    from veracausa.dictionaries.dictionary import Dictionary
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Points of a unit's own path at which attention is looked at.
ALPHAS = (0.25, 0.5, 0.75, 1.0)
#: Kinds of units whose own activation enters the stream linearly, but for a post-norm.
LOCATED = ("heads", "mlps", "neurons", "attention", "residual")


@dataclass(frozen=True, eq=False)
class LocateWork:
    """What `locate` is about to do: units of one kind, and the points of their paths where attention is looked at."""

    lm: Model
    task: Task
    table: Units
    alphas: tuple[float, ...]
    kind: ClassVar[str] = "locating"

    @property
    def nonlinear(self) -> tuple[str, ...]:
        """The kinds of nonlinear parts that the model and the metric have."""
        return kinds_of(self.lm.decoder, self.task.metric)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Figures of each unit: runs, sublayers, heads."""
        layers = self.lm.layers
        return 1 << len(self.nonlinear), 2 * layers + 2, layers * self.lm.heads

    @property
    def behind(self) -> np.ndarray:
        """The first layer whose attention is behind each unit's patch; L if there is none."""
        joined = [where(self.lm.decoder, self.table.place, int(layer)).join for layer in self.table.layer]
        return np.array([layer + middle for layer, middle in joined])

    @property
    def batch(self) -> int:
        """Pairs that fit with what the expansion and the gradients keep of each layer."""
        decoder = self.lm.decoder
        kept = 2 * decoder.neurons + 12 * decoder.width + 4 * decoder.heads * decoder.head_dim
        return examples_per_batch(self.lm, self.task, kept)

    @property
    def stays(self) -> bool:
        """Whether all pairs may stay recorded until their attention is looked at."""
        return len(self.task) <= self.batch

    def groups(self) -> list[tuple[int, tuple[int, ...]]]:
        """Buckets of pairs that are run together."""
        return buckets(self.lm.decoder, self.task, True, self.batch)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.groups())

    def tokens(self) -> float:
        """Token-layers: both runs measured; recorded, with gradients and the parts' ends; patched runs; attention."""
        layers, watched, depth = self.lm.layers, self.behind < self.lm.layers, self.rows(self.table, Cost()).depth
        times = 2 if watched.any() and not self.stays else 1
        runs = depth.sum() * (1 + self.sizes[0]) + (depth[watched] * len(self.alphas) + 1).sum()
        total = measured_runs(self.lm, self.task)
        for start, examples in self.groups():
            own = self.task.lengths[examples[0]] - start
            # both runs; of the clean one gradients, the engine's own run, the parts' ends
            recorded = layers * (start + 5 * own) * times
            total += len(examples) * float(recorded + own * runs)
        return total

    def rows(self, table: Units, cost: Cost, alpha: np.ndarray | None = None) -> Rows:
        """Rows of units that go to their corrupted values, or the share `alpha` of that way."""
        return Rows(self.lm, self.task, table, Counterfactual(True), True, None, cost, alpha)

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Locations:
        """Compute all accounts, pair by pair, then look at the attention of each unit's strongest head."""
        lm, task, table = self.lm, self.task, self.table
        shape, asked = (len(task), len(table) * sum(self.sizes)), {"units": table.digest()}
        asked |= dictionary_settings(lm, table.kind)
        with session(lm, task, shape, out=out, name="location", asked=asked, show=show_progress) as call:
            call.measured.require_gap(task)
            recorder = Recorder(lm, task, table.place, self.stays, call.cost)
            label = f"locating E − AtP of {len(table)} {table.kind}"
            with call.bar(label, self.tokens()), attention_function(lm.decoder, SUFFIX):
                call.rest(self.groups(), partial(self._bucket, call, recorder))
                figures = call.values.unflatten(1, (len(table), -1)).movedim(0, -1)
                runs, sublayers, heads = (part.contiguous() for part in figures.split(self.sizes, 1))
                heads = heads.unflatten(1, (lm.layers, lm.heads))
                saturation = self._saturation(call, recorder, heads.mean(-1))
        return Locations(
            table,
            self.nonlinear,
            runs,
            sublayers,
            heads,
            saturation,
            call.measured.clean,
            call.measured.corrupted,
            call.origin,
            task_header(task),
            call.cost,
            dictionary_settings(lm, table.kind),
        )

    def _bucket(self, call: Session, recorder: Recorder, start: int, examples: tuple[int, ...]) -> None:
        """All figures of a bucket's pairs."""
        recorded, table, n = recorder(start, examples), self.table, len(examples)
        by_layer, rows = np.argsort(table.layer, kind="stable"), self.rows(table, call.cost)
        order = np.stack([np.tile(np.arange(n), len(table)), np.repeat(by_layer, n)], 1)
        positions, length = recorded.bucket.positions, recorded.bucket.tape.length
        size = rows_per_chunk(self.lm, positions, length, backward=True)
        found = torch.zeros(n, len(table), sum(self.sizes), dtype=self.lm.score_dtype)

        def account(part: np.ndarray) -> Tensor:
            return run_rows(recorded, rows, part).figures.to(found)

        for part, figures in chunks(order, size, account, f"{positions} tokens"):
            if not torch.isfinite(figures).all():
                bad = table.names[int(part[int((~torch.isfinite(figures)).any(1).nonzero()[0]), 1])]
                raise NumericsError(f"NaN or infinity behind {bad} on {self.task.name!r}. Run the model in float32.")
            found[part[:, 0], part[:, 1]] = figures
            call.advance()
        call.put(list(examples), found.flatten(1))

    def _saturation(
        self, call: Session, recorder: Recorder, heads: Float[Tensor, "units layers heads"]
    ) -> tuple[Saturation | None, ...]:
        """For every unit with an attention behind it, the head with the largest mean increment."""
        strongest: dict[int, tuple[int, int]] = {}
        for u, first in enumerate(self.behind.tolist()):
            if first < self.lm.layers:
                layer, head = divmod(int(heads[u, first:].abs().flatten().argmax()), self.lm.heads)
                strongest[u] = first + layer, head
        watched: dict[tuple[int, ...], list[tuple[Tensor, ...]]] = {}

        def watch(start: int, examples: tuple[int, ...]) -> None:
            recorded, figures = recorder(start, examples), []
            for u, (layer, head) in strongest.items():
                rows = self.rows(self.table[[u] * len(self.alphas)], call.cost, np.array(self.alphas))
                with memory_errors(f"{len(self.alphas)} runs of {len(examples)} prompts"):
                    figures.append(tuple(part.cpu() for part in watch_head(recorded, rows, layer, head)))
                call.advance()
            watched[examples] = figures

        halving(self.groups() if strongest else [], watch)
        back = torch.argsort(torch.tensor([i for examples in watched for i in examples]))
        found: list[Saturation | None] = [None] * len(self.table)
        for i, (u, (layer, head)) in enumerate(strongest.items()):
            parts = zip(*(figures[i] for figures in watched.values()), strict=True)
            figures = (torch.cat(part)[back] for part in parts)
            found[u] = Saturation.of(self.task, f"a{layer}.h{head}", self.alphas, *figures)
        return tuple(found)


@gives(Locations)
def locate(
    lm: Model,
    task: Task,
    *,
    units: Sequence[str] | Units,
    alphas: Sequence[float] = ALPHAS,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> LocateWork:
    """Where between its patch and the metric E − AtP of each unit arises: kind of nonlinearity, sublayer, head.

    Args:
        lm: the model.
        task: the prompt pairs and the metric.
        units: names (["a20.h0", "a9.h6"]) or a table, of one kind: heads, MLPs, neurons, attention layers, the
            residual stream, parts of dictionaries; at all positions. Meant for a few units that an estimate gets wrong.
        alphas: where on a unit's own path (0: its own value, 1: replaced) the attention behind it is looked at; 1 is
            always among them.
        dictionary: features or directions of a site, or several; see `vc.exact`.
        out: a folder to keep finished pieces in: an interrupted call with the same arguments continues from them.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Returns:
        `Locations`, a mapping unit → `Location`; effects with the sign of `vc.exact` (noising, counterfactual).

    Raises:
        MethodError: units whose curvature begins before the patch (queries, keys, values), edges, units at single
            positions; a divergence as the metric, whose AtP is 0.
        UnitError, GapError, NumericsError, OutOfMemoryError, ContractError: as for `vc.exact`.

    >>> found = vc.causes.locate(lm, task, units=vc.agreement(estimate, exact).outliers[:6])
    >>> found["a20.h0"].cause
    """
    if outside := [alpha for alpha in alphas if not 0 <= alpha <= 1]:
        raise MethodError(f"alphas={outside}: shares of a unit's way lie between 0 (its own value) and 1 (replaced).")
    points = (*(float(alpha) for alpha in alphas if alpha not in (0, 1)), 1.0)
    return LocateWork(*_require(lm, task, units, dictionary), points)


def _require(
    lm: Model, task: Task, units: Sequence[str] | Units, dictionary: Dictionary | Sequence[Dictionary] | None
) -> tuple[Model, Task, Units]:
    """What is located, if its units' curvature lies behind their patches and the model's parts have tangents."""
    lm.decoder.require_stream_alone("vc.causes.locate")
    if lm.decoder.has_mixers:
        raise ArchitectureError(
            f"Where errors arise is not told of {type(lm.decoder.hf).__name__}: its mixers' scans have no tangents "
            "that stand for parts of them. Compare estimates with exact effects (vc.agreement), or ask for a receipt."
        )
    for block in lm.decoder.blocks:
        block.require_single()
    lm, table = laid_units(lm, task, units, dictionary, spans=False)
    if isinstance(table, Groups) or not (table.kind in LOCATED or is_coded(table.kind)) or table.positional:
        raise MethodError(
            f"vc.causes.locate takes {', '.join(LOCATED)}, features and directions at all positions; "
            f"{table.names[0]!r} is of another kind. For a query, key, value or pattern take its head; for single "
            "positions the unit at all of them."
        )
    if flat_where_clean(task.metric):
        raise MethodError(
            "The gradient of a divergence at the clean run is zero, so attribution patching scores every unit 0 and "
            "its whole effect is curvature. Use another metric, e.g. logit_diff."
        )
    return lm, task, table
