"""TransformerLens' side of `edges_peers.py` (written for 4.3: `tools.analysis.attribution_patching`).

It takes one example at a time and scores every edge at every position; positions are summed here, untimed. Gradients
are taken in the run that it calls corrupt, differences towards the one that it calls clean: with both exchanged that is
our effect. Circuits, too, are of one pair, and its edges at all positions make our edge. Each call runs the circuit
once more for every class of edges in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from worker import Measures, serve


def set_up(folder: Path, pairs: dict[str, Any]) -> tuple[Any, Any, Any]:
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    model.eval()
    clean, corrupted = torch.tensor(pairs["clean"]), torch.tensor(pairs["corrupted"])
    return model, clean, corrupted


def our_name(edge: tuple[Any, Any]) -> str:
    """A pair of its nodes as we write it, without the position."""
    source, target = edge
    start = {"embed": "input", "attn_head_out": f"a{source.layer}.h{source.head}", "mlp_out": f"m{source.layer}"}
    end = {"logits": "logits", "mlp_in": f"m{target.layer}", "q_input": f"a{target.layer}.h{target.head}<q>"}
    end |= {f"{kind}_input": f"a{target.layer}.kv{target.head}<{kind}>" for kind in "kv"}
    return f"{start[source.kind]}->{end[target.kind]}"


def prepare(folder: Path, pairs: dict[str, Any]) -> Measures:
    from transformer_lens.tools.analysis.attribution_patching import (
        EdgeAttributionConfig,
        attribution_patch,
        faithfulness,
    )

    model, clean, corrupted = set_up(folder, pairs)
    everywhere: dict[str, list[Any]] = {}

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, pairs["correct"]] - logits[0, -1, pairs["incorrect"]]

    def named(result: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        everywhere.clear()
        for edge, score in result.edge_scores.items():
            name = our_name(edge)
            found[name] = found.get(name, 0.0) + score
            everywhere.setdefault(name, []).append(edge)
        return found

    def first_pair() -> Any:
        [count] = pairs["one"]
        kept = [edge for name in pairs["ranking"][:count] for edge in everywhere[name]]
        return faithfulness(model, clean[:1], corrupted[:1], difference, kept)

    def output(result: Any) -> list[list[float]]:
        low, high = result.corrupt_metric, result.full_metric
        return [[low + result.recovered * (high - low)]]

    with torch.no_grad():
        model(clean)
    return {
        "eap": (
            lambda: attribution_patch(model, corrupted, clean, difference, EdgeAttributionConfig(granularity="edge")),
            named,
        ),
        "one circuit, first pair": (first_pair, output),
    }


if __name__ == "__main__":
    serve(prepare, "transformer-lens", "transformers")
