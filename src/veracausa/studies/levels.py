"""How much a study does: quick, default, full."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from veracausa.choices import Ablation
from veracausa.errors import MethodError
from veracausa.studies.kinds import many_kind
from veracausa.suggestions import not_known

if TYPE_CHECKING:
    from veracausa.model import Model

#: More than any model has.
ALL = 1 << 40


@dataclass(frozen=True)
class Level:
    """What a study of one size computes; a count of 0 leaves that part out.

    `pairs`: of a generated task, where the command line makes it. `neurons`: exact effects of so many neurons, the
    strongest by `atp` (of tasks with several pairs at most 500), and of `sample` more at random; `features`: the same
    of each kind of dictionaries that lie on the model. `nodes`: points on paths towards the corrupted values;
    `to_zero`: towards zero, where they bend more (of a single pair). `explained`: outliers that get a cause, a place
    and a curve. `shapley`: layers whose heads get Shapley values. `prompts`: of the ablation study with its greedy
    answers, under `ablations`. `contrasted`: pairs on which so many `corruptions` of the task are compared, and among
    whose `edits` of a word counterfactuals are searched for `searched` units. `replaced`: pairs on which the
    `baselines` are compared. `read`: pairs whose stream is read at every layer.
    """

    name: str
    pairs: int
    neurons: int
    features: int
    sample: int
    nodes: int
    to_zero: int
    explained: int
    shapley: int
    prompts: int
    ablations: tuple[Ablation, ...]
    contrasted: int
    corruptions: int
    replaced: int
    baselines: tuple[Ablation, ...]
    searched: int
    edits: int
    read: int

    def but(self, **changes: int | None) -> Level:
        """This level with some counts changed; None changes nothing."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]


def fitting(lm: Model, level: Level) -> Level:
    """A level without what a model has not (see `left_out`)."""
    return level.but(neurons=0, sample=0) if many_kind(lm) in lm.decoder.lacks else level


def left_out(lm: Model, level: Level) -> tuple[str, ...]:
    """What a study of this level has not because the model has it not, and why."""
    said = []
    if level.neurons and "neurons" in lm.decoder.lacks:
        instead = "; channels of its mixers stand in their place" if many_kind(lm) == "channels" else ""
        said.append(f"no neurons: {lm.decoder.lacks['neurons'].rstrip('.')}{instead}")
    if level.explained and lm.decoder.has_mixers:
        said.append("nothing about where errors arise: a mixer's scan has no tangents that stand for parts of it")
    elif level.explained and lm.decoder.has_experts:
        said.append(
            "nothing about where errors arise: that runs a model whose activations are replaced by their tangents, and "
            "those of experts stand where no hook reaches"
        )
    return tuple(said)


LEVELS: dict[str, Level] = {
    "quick": Level(
        name="quick",
        pairs=1,
        neurons=0,
        features=60,
        sample=0,
        nodes=3,
        to_zero=0,
        explained=2,
        shapley=0,
        prompts=20,
        ablations=("mean",),
        contrasted=0,
        corruptions=0,
        replaced=0,
        baselines=(),
        searched=0,
        edits=0,
        read=0,
    ),
    "default": Level(
        name="default",
        pairs=10,
        neurons=300,
        features=300,
        sample=150,
        nodes=5,
        to_zero=16,
        explained=6,
        shapley=1,
        prompts=150,
        ablations=("zero", "mean"),
        contrasted=5,
        corruptions=3,
        replaced=3,
        baselines=("counterfactual", "zero", "mean"),
        searched=1,
        edits=2,
        read=10,
    ),
    "full": Level(
        name="full",
        pairs=32,
        neurons=ALL,
        features=ALL,
        sample=300,
        nodes=16,
        to_zero=32,
        explained=6,
        shapley=3,
        prompts=10_000,
        ablations=("zero", "mean"),
        contrasted=16,
        corruptions=5,
        replaced=12,
        baselines=("counterfactual", "zero", "mean", "resample", "optimal"),
        searched=6,
        edits=4,
        read=32,
    ),
}


def resolve_level(level: str | Level) -> Level:
    """A level by its name, or itself.

    Raises:
        MethodError: an unknown name.
    """
    if isinstance(level, Level):
        return level
    if level not in LEVELS:
        raise MethodError(f"{not_known('level', level, LEVELS)} Or give a Level of your own.")
    return LEVELS[level]
