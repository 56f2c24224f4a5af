"""The command that lists methods: how effects are estimated, edges selected, units ablated."""

from __future__ import annotations

from typing import Any

from veracausa.cli.listing import listing
from veracausa.cli.options import Json
from veracausa.cli.output import print_json
from veracausa.terminal import echo


def methods(json: Json = False) -> None:
    """Which methods there are: estimates as path × rule × combination with their paper, selections, ablations."""
    found = _found()
    if json:
        print_json(found)
        return
    echo(_estimates("Estimates of units (attribute --method)", found["units"]))
    echo(_estimates("\nEstimates of edges (discover --method, and attribute --units edges --method)", found["edges"]))
    for title, table in _TITLES.items():
        echo(listing(f"\n{title}", list(found[table].items())))
    echo(
        "\nAny other path × rule × combination: vc.attribute(…, method=vc.Method(path=…, rule=…, combine=…)) in Python."
    )


#: What stands over a table → its name.
_TITLES = {
    "Paths: where gradients are taken": "paths",
    "Rules: what gradients become on their way back": "rules",
    "Combinations: the score of a unit u": "combinations",
    "Other scores of edges (discover --method)": "further",
    "Ways of learning masks (attribute --method mask --learner)": "learners",
    "Selections of edges by their scores (discover --how)": "selections",
    "Ablations: what a unit is replaced by (exact --ablation)": "ablations",
    "Baselines: the ablation whose effect an estimate is of (attribute --baseline)": "baselines",
    "Directions: what is patched (--direction)": "directions",
}


def _found() -> dict[str, Any]:
    from veracausa.circuits.selection.ways import HOW
    from veracausa.discovery.ways import FURTHER
    from veracausa.estimates.learned.ways import LEARNED_BY
    from veracausa.estimates.parts import COMBINATIONS, PATHS, RULES
    from veracausa.estimates.presets import EDGE_PRESETS, ESTIMATES, PRESETS
    from veracausa.scores.estimands import ABLATIONS, BASELINES, DIRECTIONS

    return {
        "units": [_estimate(name, PRESETS.get(name)) for name in ESTIMATES],
        "edges": [_estimate(name, parts) for name, parts in EDGE_PRESETS.items()],
        "paths": {name: path.description for name, path in PATHS.items()},
        "rules": RULES,
        "combinations": COMBINATIONS,
        "further": FURTHER,
        "learners": LEARNED_BY,
        "selections": {name: way.description for name, way in HOW.items()},
        "ablations": ABLATIONS,
        "baselines": BASELINES,
        "directions": DIRECTIONS,
    }


def _estimate(name: str, parts: Any) -> dict[str, Any]:
    from veracausa.estimates.presets import PAPERS

    row: dict[str, Any] = {"method": name, "path": None, "rule": None, "combination": None, "nodes": None}
    if parts is not None:
        nodes = None if parts.path == "point" else parts.nodes
        row |= {"path": parts.path, "rule": parts.rule, "combination": parts.combine, "nodes": nodes}
    return {**row, "paper": PAPERS[name]}


def _estimates(title: str, rows: list[dict[str, Any]]) -> str:
    def parts(row: dict[str, Any]) -> str:
        if row["path"] is None:
            return "a gate for each unit, learned"
        nodes = f", {row['nodes']} points" if row["nodes"] else ""
        return f"{row['path']} × {row['rule']} × {row['combination']}{nodes}"

    return listing(title, [(row["method"], parts(row), row["paper"]) for row in rows])
