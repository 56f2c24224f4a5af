"""`Method`: a gradient estimate, composed of a path, a backward rule, a combination and a grid."""

from __future__ import annotations

from dataclasses import dataclass

from veracausa.choices import Baseline, Combination, GridName, PathName, RuleName
from veracausa.engine.rule import PLAIN, RULES, Rule
from veracausa.typed import require_fields


@dataclass(frozen=True)
class Method:
    """A gradient estimate, composed of parts.

    `path`, `rule`, `combine`: see `parts` (on a straight path of the activations themselves all combinations are one
    sum, since a_u moves by Δ_u · dα). `baseline`: what units move towards: "corrupted" (their value in the other run),
    "zero", "mean", "resample", "optimal" (as for `vc.exact`). `nodes`, `grid`: how the path is sampled (nodes: points
    of a grid or draws, steps of gradpath, segments of a geodesic). `seed`: of draws and of resampling. `descent`: steps
    that bend a geodesic.

    >>> vc.attribute(lm, task, method=vc.Method(path="inputs", combine="increments", grid="gauss", nodes=8))
    """

    path: PathName = "point"
    rule: RuleName = "plain"
    combine: Combination = "mean"
    baseline: Baseline = "corrupted"
    nodes: int = 16
    grid: GridName = "gauss"
    seed: int = 0
    descent: int = 10

    def __post_init__(self) -> None:
        require_fields(self, globals())

    @property
    def signed(self) -> bool:
        """Whether scores have a sign (else they are magnitudes)."""
        return "graddrop" not in self.rule

    @property
    def drawn(self) -> bool:
        """Whether scores are means over several random draws, which have a standard error."""
        return self.path == "draws" and self.nodes > 1 and self.combine == "mean"

    @property
    def tangents(self) -> bool:
        """Whether increments are told by derivatives along the path, for which its points are run twice more."""
        return self.combine == "increments" and (
            self.path == "draws" or (self.path == "inputs" and self.grid == "gauss")
        )

    @property
    def complete(self) -> bool:
        """Whether the rule and the combination promise that scores add up (see `Completeness`)."""
        return self.backward.plain and (self.combine != "mean" or self.path in ("layer", "encoded", "unit"))

    @property
    def backward(self) -> Rule:
        """The rule of the backward passes themselves; AtP*'s parts are combined outside them."""
        return RULES.get(self.rule, PLAIN)

    def settings(self) -> dict[str, object]:
        """The parts, for headers; only those that the path has."""
        parts: dict[str, object] = {"path": self.path, "rule": self.rule, "baseline": self.baseline}
        if self.path != "point":
            parts |= {"combine": self.combine, "nodes": self.nodes}
        if self.path in ("inputs", "layer", "encoded", "unit"):
            parts["grid"] = self.grid
        if self.path == "draws" or self.baseline == "resample":
            parts["seed"] = self.seed
        if self.path == "geodesic":
            parts["descent"] = self.descent
        return parts
