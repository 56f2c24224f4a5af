"""Methods by name, and what a method is made of: path × backward rule × combination.

A gradient estimate walks a path of model states from the patched run's own activations to their replacements, takes
gradients along it by some backward rule, and combines them with activation differences. `Method` names the parts;
`PRESETS` names published combinations. What a combination cannot mean is refused here, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from veracausa.attribution.grids import grid
from veracausa.errors import MethodError

BASELINES = {"corrupted": "counterfactual", "zero": "zero", "mean": "mean"}
PATHS = {
    "point": "the patched run alone: one slope, at its own activations",
    "layer": "the activations of all units of one layer's site move together, straight, the rest computed from them",
}
RULES = {"plain": "the model's own backward pass"}
COMBINATIONS = {
    "mean": "Δ_u · Σ_k w_k g_k",
    "increments": "Σ_k (a_u(α_{k+1}) − a_u(α_k)) · ½(g_k + g_{k+1}), or Σ_k w_k (da_u/dα) · g_k on Gauss nodes",
}


@dataclass(frozen=True)
class Method:
    """A gradient estimate, composed of parts.

    `path`: "point" or "layer". `rule`: "plain". `combine`: "mean" or "increments" (on a straight path of the
    activations themselves the two are the same sum, since a_u moves by Δ_u · dα). `baseline`: what units move
    towards: "corrupted" (their value in the other run), "zero", "mean". `nodes`, `grid`: how the path is sampled.

    >>> vc.attribute(lm, task, method=vc.Method(path="layer", combine="increments", nodes=32))
    """

    path: str = "point"
    rule: str = "plain"
    combine: str = "mean"
    baseline: str = "corrupted"
    nodes: int = 16
    grid: str = "gauss"

    def settings(self) -> dict[str, object]:
        """The parts, for headers; nodes and grid only where the path has them."""
        parts: dict[str, object] = {"path": self.path, "rule": self.rule, "baseline": self.baseline}
        if self.path != "point":
            parts |= {"combine": self.combine, "nodes": self.nodes, "grid": self.grid}
        return parts


#: Published methods by name.
PRESETS: dict[str, Method] = {
    "atp": Method(path="point", rule="plain", combine="mean"),
    "ig": Method(path="layer", rule="plain", combine="increments"),
}


@dataclass(frozen=True)
class _Refusal:
    """A combination that means nothing, and why."""

    applies: Callable[[Method, str, str], bool]
    because: str


#: (method, metric, direction) → refused because. The one place for it.
REFUSALS: tuple[_Refusal, ...] = (
    _Refusal(
        lambda method, metric, direction: metric == "neg_kl" and method.path == "point" and direction == "noising",
        "the gradient of a KL divergence at the clean run is zero, so a point path would score every unit 0. "
        "Use a path (method='ig')",
    ),
    _Refusal(
        lambda method, metric, direction: direction == "denoising" and method.baseline != "corrupted",
        "denoising restores clean values; there is no baseline to move towards. Use baseline='corrupted'",
    ),
)


def resolve_method(method: str | Method, metric: str, direction: str, **over: object) -> tuple[str, Method]:
    """Name and parts of what a call asks for; `over` replaces parts that are not None.

    Raises:
        MethodError: an unknown name or part, or a combination that means nothing (says why).
    """
    if isinstance(method, str):
        if method not in PRESETS:
            raise MethodError(
                f"method={method!r} is not known. Presets: {', '.join(PRESETS)}; or compose one with vc.Method(…)."
            )
        name, parts = method, PRESETS[method]
    else:
        name, parts = "", method
    parts = replace(parts, **{key: value for key, value in over.items() if value is not None})  # type: ignore[arg-type]
    for what, value, known in (
        ("path", parts.path, PATHS),
        ("rule", parts.rule, RULES),
        ("combine", parts.combine, COMBINATIONS),
        ("baseline", parts.baseline, BASELINES),
        ("direction", direction, {"noising": "", "denoising": ""}),
    ):
        if value not in known:
            raise MethodError(f"{what}={value!r} is not known. Known: {', '.join(known)}.")
    grid(parts.grid, parts.nodes)
    for refusal in REFUSALS:
        if refusal.applies(parts, metric, direction):
            raise MethodError(f"This combination means nothing: {refusal.because}.")
    return name or f"{parts.path} × {parts.rule} × {parts.combine}", parts
