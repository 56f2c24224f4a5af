"""Interactions of two layers: how strongly every part of one drives every part of the other (`interactions`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from veracausa.choices import InteractionAblation, InteractionMethod, InteractionWay, ProductMode
from veracausa.dictionaries.dictionary import Dictionary
from veracausa.effects.counterparts import Aligned, require_alike
from veracausa.effects.laid import with_dictionary
from veracausa.effects.replacements import Replacement, reference_runs, replacement, require_reference
from veracausa.engine.attention import SUFFIX
from veracausa.engine.batches import buckets
from veracausa.engine.bucket import Bucket
from veracausa.engine.budget import examples_per_batch
from veracausa.engine.guard import attention_function
from veracausa.engine.passages import WAYS, Passage
from veracausa.engine.patches import activation, kept_width
from veracausa.engine.session import Session, session
from veracausa.engine.work import gives, recorded_runs, unpatched_run
from veracausa.errors import MethodError
from veracausa.estimates.paths.grids import grid
from veracausa.interplay.possible import require_passage, require_places, require_probes, said
from veracausa.interplay.products import Kept, Pair
from veracausa.interplay.results import Interactions
from veracausa.interplay.sides import Asked, Side, both_sides
from veracausa.scores.headers import align_settings, dictionary_settings, reference_settings, span_settings
from veracausa.scores.scores import task_header
from veracausa.suggestions import not_known
from veracausa.tasks.placing import elsewhere
from veracausa.units.at_spans import SpanUnits

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Method → what J is.
METHODS: dict[InteractionMethod, str] = {
    "ig": "Δ times the gradient, integrated from what sources are replaced by to their own values",
    "gradient": "Δ times the gradient at the sources' own values",
    "exact": "f − f with the source replaced",
}
#: What sources can be replaced by.
REPLACED: tuple[InteractionAblation, ...] = ("counterfactual", "zero", "mean")
#: Whose products of derivatives are taken.
MODES: tuple[ProductMode, ...] = ("auto", "forward", "reverse")
#: What is said where spans stand elsewhere in a corrupted prompt.
_MOVED = (
    "some spans stand elsewhere in the corrupted prompt, so only the sources' spans move, and no other part of the site"
)
#: Pairs whose bare metric is compared with the one that kept pieces were made with.
_COMPARED = 2


@dataclass(frozen=True, eq=False)
class InteractionsWork:
    """All pairs of a source and a reader; see `interactions`."""

    lm: Model
    task: Task
    source: Side
    reader: Side
    passage: Passage
    method: InteractionMethod
    ablation: InteractionAblation
    reference: Task | None
    nodes: int
    mode: ProductMode
    probes: int | None
    orthogonal: bool
    seed: int

    @property
    def kind(self) -> str:
        """The rate it runs at."""
        return "exact" if self.method == "exact" else "gradients"

    @property
    def what(self) -> str:
        """In words, for forecasts."""
        return f"interactions of {len(self.source):,} {said(self.source)} with {len(self.reader):,} {said(self.reader)}"

    @property
    def alone(self) -> bool:
        """Whether it does without corrupted prompts."""
        return self.ablation != "counterfactual"

    @property
    def aligned(self) -> bool:
        """Whether it can do with pairs whose prompts have different lengths."""
        return self.alone or bool(self.source.places.spans)

    @property
    def elsewhere(self) -> bool:
        """Whether the sources' values stand at other positions in some corrupted prompt: then nothing else moves."""
        return not self.alone and elsewhere(self.task, self.source.places.spans)

    @cached_property
    def where(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of every pair, at which positions each place of the sources and of the readers is."""
        sides = (self.source.places, self.reader.places)
        return [(sides[0].masks(self.task, i), sides[1].masks(self.task, i)) for i in range(len(self.task))]

    @property
    def runs_on(self) -> Task:
        """The prompts that are run."""
        return self.task.side(True) if self.alone and self.task.uneven else self.task

    @cached_property
    def grid(self) -> tuple[tuple[float, float], ...]:
        """Nodes and weights: of one gradient that at the prompt's own values."""
        if self.method != "ig":
            return ((1.0, 1.0),)
        return tuple(zip(*(each.tolist() for each in grid("gauss", self.nodes)), strict=True))

    @cached_property
    def chosen(self) -> Literal["forward", "reverse", "exact"]:
        """Whose products are taken, the sources' or the readers': whichever are fewer."""
        if self.method == "exact":
            return "exact"
        if self.mode != "auto":
            return self.mode
        return "forward" if self.between("forward") <= self.between("reverse") else "reverse"

    def rows(self, how: str, example: int, start: int) -> int:
        """Runs of one prompt through the blocks between, from position `start` on.

        A product counts as one beside the run that it is of (forward), or backward from it.
        """
        nodes, ends = len(self.grid), 2
        if how == "exact":
            return ends + 1 + len(self.source) + 1
        if how == "forward":
            return ends + 2 * nodes * (len(self.source) + 1)
        asked = self.reader.asked(self.where[example][1][:, start:])
        products = int(asked.sum(1) @ self.reader.widths)
        return ends + nodes * (1 + (len(self.reader) * (self.probes + 1) if self.probes else products))

    def between(self, how: str) -> float:
        """Token-layers of all rows through the blocks between."""
        found = 0.0
        for start, own in self.buckets:
            positions = self.runs_on.lengths[own[0]] - start
            found += sum(self.rows(how, i, start) for i in own) * positions * max(1, self.passage.depth)
        return found

    @cached_property
    def buckets(self) -> list[tuple[int, tuple[int, ...]]]:
        """Groups of pairs that share a tape."""
        kept = sum(kept_width(self.lm.decoder, side.units.place) for side in (self.source, self.reader))
        most = examples_per_batch(self.lm, self.task, kept)
        return buckets(self.lm.decoder, self.runs_on, not self.alone and not self.elsewhere, most)

    def batches(self) -> int:
        """Buckets that are recorded."""
        return len(self.buckets)

    def tokens(self) -> float:
        """Token-layers: recorded runs, the engine's own, the reference set, and the rows through the blocks between."""
        lm, task = self.lm, self.runs_on
        found = recorded_runs(lm, task, self.buckets) + unpatched_run(
            lm, task.side(True) if task.uneven else task, self.buckets
        )
        found += reference_runs(lm, self.reference or self.task, self.task, self.ablation)
        return found + (self.between(self.chosen) if self.passage.depth else 0.0)

    @property
    def settings(self) -> dict[str, Any]:
        """What the header says."""
        by = {"forward": "forward, by sources", "reverse": "backward, by readers", "exact": "one run a source"}
        sides = {"sources": self.source, "readers": self.reader}
        vectors = "" if self.reader.single else "; readers of several numbers: the root of the sum of their squares"
        signs = None if self.chosen != "reverse" or not self.probes else self.probes
        told = "all, summed exactly" if signs is None else f"by {signs} vectors of random signs"
        kinds = [side.units.kind for side in sides.values()]
        return {
            "method": self.method, "way": self.passage.way, "ablation": self.ablation,
            "products": f"{len(self.grid)} Gauss–Legendre node{'s' * (len(self.grid) > 1)}, {by[self.chosen]}"
            if self.method == "ig" else by[self.chosen],
            **{name: f"{len(side):,} {said(side)}" for name, side in sides.items()},
            "positions": told + vectors, "nodes": len(self.grid), "mode": self.chosen, "probes": signs,
            "signs": ("orthogonal" if self.orthogonal else "random") if signs else None,
            "seed": self.seed if signs else None,
            "way_said": WAYS[self.passage.way],
            **reference_settings(self.ablation, self.task, self.reference),
            **dictionary_settings(self.lm, *kinds),
            **(span_settings(self.task) if self.source.places.spans + self.reader.places.spans else {}),
            **({} if self.alone else align_settings(self.task, self.source.places.spans)),
        }  # fmt: skip

    @torch.inference_mode(False)
    def run(self, show_progress: bool = True, out: str | Path | None = None) -> Interactions:
        """All pairs; backward where the model has a function of its own without products forward, and none were asked.

        Raises:
            MethodError: they were.
        """
        try:
            return self._run(show_progress, out)
        except NotImplementedError as error:
            if self.chosen != "forward":
                raise
            if self.mode == "forward":
                raise MethodError(
                    f"{self.lm.name} has a function without derivatives forward ({error}). Use mode='reverse'."
                ) from error
            return replace(self, mode="reverse")._run(show_progress, out)

    def _run(self, show_progress: bool, out: str | Path | None) -> Interactions:
        """All pairs, prompt by prompt."""
        lm, task, parts = self.lm, self.task, self._parts
        asked = {"interactions": self._asked}
        with (
            session(
                lm, task, (len(task), sum(map(prod, parts.values()))), out=out, name="interactions", asked=asked,
                measured=False, compared=_COMPARED, show=show_progress,
            ) as call,
            torch.no_grad(),
        ):  # fmt: skip
            how = (self.ablation, "noising", self.reference, self.seed, call.cost)
            put = replacement(lm, task, self.source.units, *how)
            if self.elsewhere:
                put = Aligned(put, task, self.source.places.spans, noising=True)

            def each(start: int, examples: tuple[int, ...]) -> None:
                for example, kept in self._bucket(call, put, start, examples):
                    call.put(example, self._row(example, kept))

            with call.bar(self.what, self.tokens()):
                call.rest(self.buckets, each)
        columns = call.values.split([prod(shape) for shape in parts.values()], 1)
        found = {name: own.unflatten(1, parts[name]) for name, own in zip(parts, columns, strict=True)}
        sampled = self.settings["probes"]
        if (several := torch.as_tensor(self.reader.sizes > 1)).any():
            found["means"][:, several] = float("nan")
        positions = torch.stack([self._counts(example) for example in range(len(task))]).cpu()
        return Interactions(
            tuple(self.source.units.names), tuple(self.reader.units.names), found["squares"], found["means"],
            positions, found["rest"], found["change"], self.settings, call.origin, task_header(self.task), call.cost,
            found["error"] if sampled else None,
            (*call.precision.notes, *((_MOVED,) if self.elsewhere else ())),
        )  # fmt: skip

    @property
    def _parts(self) -> dict[str, tuple[int, ...]]:
        """What is kept of a prompt, and its shape."""
        each, own = (len(self.reader), len(self.source)), (len(self.reader),)
        return {"squares": each, "means": each, "error": each, "rest": own, "change": own}

    @property
    def _asked(self) -> dict[str, Any]:
        """All that the numbers depend on, beside the model and the task."""
        reference = None if self.reference is None else self.reference.digest()
        return self.settings | {
            "sources": self.source.units.digest(), "readers": self.reader.units.digest(), "reference": reference,
        }  # fmt: skip

    def _row(self, example: int, kept: Kept) -> torch.Tensor:
        """A prompt's sums, as means over the readers' positions (no source moves in a shared prefix), in one row.

        NaN where the prompt has not the source's place, or the reader's.
        """
        talking, counts = self.where[example][0], self._counts(example).to(kept.rest)
        there = talking.any(1)[self.source.places.of_unit] & (counts > 0)[:, None]
        error = torch.zeros_like(kept.squares) if kept.error is None else kept.error
        every = [each.where(there, float("nan")) / counts[:, None] for each in (kept.squares, kept.sums, error)]
        every += [each / counts.clamp_min(1) for each in (kept.rest, kept.change)]
        return torch.cat([each.flatten() for each in every]).to("cpu", self.lm.score_dtype)

    def _counts(self, example: int) -> torch.Tensor:
        """Positions of every reader in a prompt."""
        return self.where[example][1].sum(1)[self.reader.places.of_unit]

    def _bucket(
        self, call: Session, put: Replacement, start: int, examples: tuple[int, ...]
    ) -> Iterator[tuple[int, Kept]]:
        """(pair, what is kept of it) of a bucket."""
        place, layer = self.source.site
        bucket = Bucket.record(
            self.lm, self.runs_on, start, examples, call.cost, sites=self.passage.sites, places=(place,), noising=True
        )
        tape, base = bucket.tape, bucket.tape.clean
        with attention_function(self.lm.decoder, SUFFIX):
            bucket.unpatched(base)
            for local, example in enumerate(examples):
                at = torch.tensor([local], device=self.lm.device)
                new = put.rows(tape, place, layer, at, None)[0]
                delta = activation(base, place, layer)[local] - new
                talking, listening = (each[:, start:] for each in self.where[example])
                pair = Pair(
                    self.lm, self.passage, tape, base, local, self.source, self.reader, talking, listening, delta,
                    self.grid, call.cost,
                )  # fmt: skip
                yield example, self._kept(pair, example)
                call.advance()

    def _kept(self, pair: Pair, example: int) -> Kept:
        if self.chosen == "reverse" and self.probes:
            return pair.probed(self.probes, self.seed, example, self.orthogonal)
        return {"forward": pair.forward, "reverse": pair.reverse, "exact": pair.exact}[self.chosen]()


@gives(Interactions)
def interactions(
    lm: Model,
    task: Task,
    sources: Asked,
    readers: Asked,
    *,
    method: InteractionMethod = "ig",
    way: InteractionWay = "whole",
    ablation: InteractionAblation = "counterfactual",
    reference: Task | None = None,
    nodes: int = 8,
    mode: ProductMode = "auto",
    probes: int | None = None,
    orthogonal: bool = False,
    dictionary: Dictionary | Sequence[Dictionary] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    memory: float | str | None = None,
    show_progress: bool = True,
) -> InteractionsWork:
    """How strongly every part of one layer drives every part of a later one.

        J_{i,t←j} = Σ_t' Δ_{j,t'} ∫₀¹ ∂f_{i,t}(α) / ∂f_{j,t'} dα,    strength = √ mean over prompts and positions of J²

    t' are the source's positions, t the reader's: all, or those that it is asked for at.
    The whole site of the sources goes from what it is replaced by (α = 0) to its own values (α = 1) in the clean run;
    Δ is that way. f is a head's value, a neuron behind its activation, a feature behind its threshold. Of a source of
    several numbers J is the sum over them; of such a reader J² is (and J has no mean). Strengths are in units of f.

    (How far groups of units are from adding up in the metric is another question: `vc.effects.interactions`.)

    Args:
        lm: the model.
        task: the prompts; its metric is not read.
        sources, readers: parts of one site each, the readers' behind: "heads:10" (a kind of one layer), a name, or
            several: heads, MLPs, attention, neurons, the residual stream, mixers and their heads and channels, features
            and directions. Of "features:10" those are meant that are active in some prompt. At all positions, or at
            each ("heads:10@positions"), at spans of the task ("@spans", "@subject", "@end"), at one ("@7",
            ["a10.h3@7"]).
        method: "ig" as above; "gradient": the gradient at the prompt's own values in the place of the integral;
            "exact": J = f_i − f_i with j replaced, run once for every source.
        way: "whole": all blocks between respond; "direct": the reader alone sees the change, as an edge's does.
        ablation: what sources are replaced by: "counterfactual" (the corrupted run's values), "zero" or "mean".
        reference: as for `vc.exact`.
        nodes: of the Gauss–Legendre grid over α, for "ig". `residual` says how far the sum is from the whole change.
        mode: "forward": a product per source and node, which gives all readers at all positions; "reverse": one per
            reader, position and node; "auto": whichever are fewer runs (backward where a model has none forward, as
            BLOOM). Numbers are the same to rounding.
        probes: backward, so many vectors of random signs in the place of the sum over positions, with standard errors.
        orthogonal: signs of a Hadamard matrix: with the next power of 2 above the positions the sum is exact.
        dictionary: as for `vc.exact`.
        seed: of the signs, which are keyed by (seed, example).
        out: a folder to keep finished prompts in: the same call goes on from there.
        memory: bytes beside the weights to work within, or "8GB" (default: what is free); see `vc.forecast`.
        show_progress: show a progress bar.

    Raises:
        UnitError: no such parts, parts of several layers, sources that overlap, readers that are not behind the sources
            or stand in no prompt with them. MethodError: a reference set that nothing is taken from, and others.

    Source: local interaction basis and interactions by integrated gradients (Bushnaq et al. 2405.10927, 2405.10928).

    >>> vc.interactions(lm, task, "heads:10", "neurons:12").top(5)
    """
    for what, value, known in (
        ("method", method, METHODS), ("way", way, WAYS), ("ablation", ablation, REPLACED), ("mode", mode, MODES)
    ):  # fmt: skip
        if value not in known:
            raise MethodError(not_known(what, value, [*known]))
    if nodes < 1:
        raise MethodError(f"nodes={nodes}: a path needs at least one node.")
    require_reference(ablation, reference)
    lm.decoder.require_stream_alone("an interaction")
    lm, source, reader = both_sides(with_dictionary(lm, dictionary), task, sources, readers)
    passage = Passage(lm.decoder, source.site, reader.site, way)
    require_passage(passage, source, reader)
    longest = max(task.lengths) * int(reader.sizes.max())
    require_probes(probes, orthogonal, method, mode, longest)
    if isinstance(source.units, SpanUnits) and ablation == "counterfactual":
        require_alike(task, source.units)
    work = InteractionsWork(
        lm, task, source, reader, passage, method, ablation, reference, nodes, mode, probes, orthogonal, seed
    )
    require_places(task, work.where, source, reader)
    return work
