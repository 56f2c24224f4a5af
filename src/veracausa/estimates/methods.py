"""Methods by name, and what a method is made of: path × backward rule × combination.

A gradient estimate walks a path of model states from the patched run to the other one, takes gradients along it by some
backward rule, and combines them with activation differences. `Method` names the parts, `parts` says what there
is of each, and `presets` names published combinations. What a combination cannot mean is refused here, and nowhere
else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from veracausa.arguments import shown
from veracausa.errors import MethodError
from veracausa.estimates.method import Method
from veracausa.estimates.parts import COMBINATIONS, PATHS, RULES
from veracausa.estimates.paths.grids import BOTH_ENDS, grid
from veracausa.estimates.presets import EDGE_PRESETS, EDGES_ONLY, NODES_ONLY, PRESETS
from veracausa.scores.estimands import BASELINES, DIRECTIONS
from veracausa.suggestions import did_you_mean, not_known
from veracausa.tasks.metrics import flat_where_clean
from veracausa.typed import require


@dataclass(frozen=True)
class _Refusal:
    """A combination that means nothing, and why; `applies(method, metric, direction)`."""

    applies: Callable[[Method, str, str], bool]
    because: str


#: The one place for what cannot be combined.
REFUSALS: tuple[_Refusal, ...] = (
    _Refusal(
        lambda m, metric, direction: flat_where_clean(metric) and m.path == "point" and direction == "noising",
        "the gradient of a divergence (KL, JS) at the clean run is zero, so a point path would score every unit 0. "
        "Use a path (method='ig')",
    ),
    _Refusal(
        lambda m, metric, direction: direction == "denoising" and m.baseline != "corrupted",
        "denoising restores clean values; there is no baseline to move towards. Use baseline='corrupted'",
    ),
    _Refusal(
        lambda m, metric, direction: m.baseline != "corrupted" and PATHS[m.path].moves == "input",
        "a path over the input ends at the other prompt, so activations move towards their corrupted values, not to "
        "zero or a mean. Use path='layer', 'unit' or 'point'",
    ),
    _Refusal(
        lambda m, metric, direction: m.path == "point" and m.combine != "mean",
        "a single point has no increments. Use combine='mean', or another path",
    ),
    _Refusal(
        lambda m, metric, direction: m.path == "gradpath" and m.combine != "mean",
        "the published GradPath does not end at the other prompt, so increments along it add up to nothing in "
        "particular. Use path='gradpath-complete'",
    ),
    _Refusal(
        lambda m, metric, direction: m.path == "inputs" and m.combine == "increments"
        and m.grid not in (*BOTH_ENDS, "gauss"),
        "increments need a grid with both ends (trapezoid), or Gauss nodes with derivatives",
    ),
    _Refusal(
        lambda m, metric, direction: m.combine == "left-increments"
        and (m.path == "draws" or (m.path == "inputs" and m.grid not in BOTH_ENDS)),
        "the left rule takes steps from one point of a grid with both ends to the next. Use grid='trapezoid'",
    ),
    _Refusal(
        lambda m, metric, direction: "qk-exact" in m.rule and (m.combine != "mean" or PATHS[m.path].moves
                                                               in ("site", "unit")),
        "qk-exact replaces the increment of the pattern by its exact change; along increments, or along a path of the "
        "queries themselves, the pattern's change is followed already. Use combine='mean' on path='point' or a path "
        "over the input",
    ),
    _Refusal(
        lambda m, metric, direction: "graddrop" in m.rule and (m.combine != "mean" or PATHS[m.path].moves
                                                               in ("site", "unit")),
        "graddrop averages magnitudes of whole passes that each drop a layer; increments of magnitudes add up to "
        "nothing. Use combine='mean' on path='point' or a path over the input",
    ),
)  # fmt: skip


#: The same for edges.
EDGE_REFUSALS: tuple[_Refusal, ...] = (
    _Refusal(
        lambda m, metric, direction: m.path == "encoded",
        "an edge carries a write, which no dictionary encodes. Use path='layer'",
    ),
    _Refusal(
        lambda m, metric, direction: PATHS[m.path].moves == "unit",
        "an edge has no activation of its own that could move alone; its exact effect is vc.exact(units='edges')",
    ),
    _Refusal(
        lambda m, metric, direction: m.baseline != "corrupted",
        "edges carry a write from one run to the other, so their estimates move towards the corrupted run. Use "
        "baseline='corrupted'",
    ),
    _Refusal(
        lambda m, metric, direction: "graddrop" in m.rule,
        "graddrop is defined for nodes. Use rule='plain' or 'qk-exact'",
    ),
)


def resolve_method(
    method: str | Method, metric: str, direction: str, edges: bool = False, **over: object
) -> tuple[str, Method]:
    """Name and parts of what a call asks for; `over` replaces parts that are not None.

    Raises:
        MethodError: an unknown name or part, or a combination that means nothing (says why).
    """
    require(method, "str | Method", "method", globals())
    if isinstance(method, str):
        presets = EDGE_PRESETS if edges else PRESETS
        if not edges and method in EDGES_ONLY:
            raise MethodError(f"method={method!r} scores edges. For nodes take {EDGES_ONLY[method]!r}.")
        if edges and method in NODES_ONLY:
            raise MethodError(f"method={method!r} scores nodes. For edges take {NODES_ONLY[method]!r}.")
        if method not in presets:
            names = ", ".join((*presets, "ifr") if edges else presets)
            raise MethodError(
                f"method={shown(method)} is not known.{did_you_mean(method, presets)} Presets: {names}; or compose "
                "one with vc.Method(…)."
            )
        name, parts = method, presets[method]
    else:
        name, parts = "", method
    parts = replace(parts, **{key: value for key, value in over.items() if value is not None})  # type: ignore[arg-type]
    for what, value, known in (
        ("path", parts.path, PATHS),
        ("rule", parts.rule, RULES),
        ("combine", parts.combine, COMBINATIONS),
        ("baseline", parts.baseline, BASELINES),
        ("direction", direction, DIRECTIONS),
    ):
        if not isinstance(value, str) or value not in known:
            raise MethodError(not_known(what, value, known))
    if parts.path in ("inputs", "layer", "encoded", "unit"):
        grid(parts.grid, parts.nodes)
    elif parts.nodes < 1 or parts.descent < 0:
        raise MethodError(f"nodes={parts.nodes}, descent={parts.descent}: a path needs at least one node.")
    for refusal in (*REFUSALS, *EDGE_REFUSALS) if edges else REFUSALS:
        if refusal.applies(parts, metric, direction):
            raise MethodError(f"This combination means nothing: {refusal.because}.")
    return name or f"{parts.path} × {parts.rule} × {parts.combine}", parts
