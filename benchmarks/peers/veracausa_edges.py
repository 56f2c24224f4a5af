"""Our side of `edges_peers.py`, and the bare model that all sides are measured against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from worker import Measures, serve


def set_up(folder: Path, pairs: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import GPT2LMHeadModel

    from veracausa.anatomy import decoder_of
    from veracausa.model import Model
    from veracausa.tasks.task import Task

    hf = GPT2LMHeadModel.from_pretrained(folder).eval().requires_grad_(False)
    lm = Model(hf, None, "gpt2-random", "random weights", decoder_of(hf))
    clean, corrupted = (tuple(map(tuple, pairs[side])) for side in ("clean", "corrupted"))
    correct, incorrect = (((pairs[side],),) * len(clean) for side in ("correct", "incorrect"))
    return lm, Task("random", clean, corrupted, correct, incorrect)


def prepare(folder: Path, pairs: dict[str, Any]) -> Measures:
    import veracausa as vc
    from veracausa.circuits.runs.run_circuits import run_circuits
    from veracausa.units.edges import Edges

    lm, task = set_up(folder, pairs)
    hf, ids = lm.hf, torch.tensor(pairs["clean"])
    ends = np.array([lm.graph.parse(name) for name in pairs["ranking"]])
    masks = {name: [Edges.of(lm.graph, *ends[:count].T).mask for count in pairs[name]] for name in ("one", "ten")}

    def forward() -> None:
        with torch.no_grad():
            hf(ids, logits_to_keep=1)

    def both() -> None:
        embeddings = hf.get_input_embeddings()(ids).requires_grad_()
        hf(inputs_embeds=embeddings, logits_to_keep=1).logits[:, -1, pairs["correct"]].sum().backward()

    def circuits(name: str, of: Any = task) -> torch.Tensor:
        return run_circuits(lm, of, masks[name], show_progress=False).metric

    forward()
    return {
        "bare forward": (forward, lambda _: None),
        "bare forward and backward": (both, lambda _: None),
        "eap": (
            lambda: vc.attribute(lm, task, units="edges", method="eap", show_progress=False),
            lambda scores: dict(zip(scores.units.names, scores.mean().tolist(), strict=True)),
        ),
        "one circuit": (lambda: circuits("one"), torch.Tensor.tolist),
        "one circuit, first pair": (lambda: circuits("one", task[:1]), torch.Tensor.tolist),
        "ten circuits": (lambda: circuits("ten"), torch.Tensor.tolist),
    }


if __name__ == "__main__":
    serve(prepare)
