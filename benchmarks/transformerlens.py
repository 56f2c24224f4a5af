"""Exact effects of neurons of a GPT-2 small (random weights): vc.exact against TransformerLens's activation patching.

TransformerLens's `patching.generic_activation_patch` runs one whole hooked forward per unit. Both sides: 12 layers,
width 768, prompts of 16 tokens that first differ at position 9, float32, the same machine and threads, in turn.
TransformerLens needs an environment of its own:

    python -m venv peer && peer/bin/pip install torch==2.13.0 transformer-lens
    python benchmarks/transformerlens.py peer/bin/python
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

LAYERS, NEURONS = (0, 6, 11), 24
LENGTH, DIFFER = 16, 9


def prompts() -> tuple[list[int], list[int]]:
    """A clean and a corrupted prompt that differ in one token."""
    clean = [(7 * i * i + 11) % 50_000 for i in range(LENGTH)]
    return clean, [*clean[:DIFFER], clean[DIFFER] + 1, *clean[DIFFER + 1 :]]


def peer() -> None:
    """Run inside the peer's environment: print milliseconds per neuron, by layer."""
    import pandas as pd
    import torch
    from transformer_lens import HookedTransformer, HookedTransformerConfig, patching

    config = HookedTransformerConfig(
        n_layers=12, d_model=768, n_heads=12, d_head=64, d_mlp=3072, n_ctx=1024, d_vocab=50257, act_fn="gelu_new",
        seed=0, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    clean, corrupted = (torch.tensor([ids]) for ids in prompts())
    found = {}
    with torch.no_grad():
        _, cache = model.run_with_cache(corrupted)

        def setter(activation: torch.Tensor, index: list[int], source: torch.Tensor) -> torch.Tensor:
            activation[..., index[1]] = source[..., index[1]]
            return activation

        for layer in LAYERS:
            table = pd.DataFrame({"layer": [layer] * NEURONS, "neuron": range(NEURONS)})
            run = lambda: patching.generic_activation_patch(  # noqa: E731
                model, clean, cache, lambda logits: logits[0, -1, 5] - logits[0, -1, 6], setter, "post", index_df=table  # noqa: B023
            )  # fmt: skip
            run()
            began = time.perf_counter()
            run()
            found[layer] = 1e3 * (time.perf_counter() - began) / NEURONS
    print(json.dumps(found))


def main(python: str) -> None:
    import torch
    from common import header, table
    from transformers import GPT2Config, GPT2LMHeadModel

    import veracausa as vc
    from veracausa.anatomy import decoder_of
    from veracausa.tasks.task import Task

    ran = subprocess.run([python, __file__, "--peer"], check=True, capture_output=True, text=True)
    theirs = {int(layer): ms for layer, ms in json.loads(ran.stdout.splitlines()[-1]).items()}
    torch.manual_seed(0)
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    lm = vc.Model(hf, None, "gpt2-random", "GPT-2 small with random weights", "random", decoder_of(hf))
    clean, corrupted = prompts()
    task = Task("one-token", (tuple(clean),), (tuple(corrupted),), ((5,),), ((6,),))
    rows = []
    for layer in LAYERS:
        names = [f"m{layer}.n{i}" for i in range(768)]
        vc.exact(lm, task, units=names[:64], show_progress=False)
        began = time.perf_counter()
        vc.exact(lm, task, units=names, show_progress=False)
        ours = 1e3 * (time.perf_counter() - began) / len(names)
        rows.append([layer, f"{theirs[layer]:.1f}", f"{ours:.2f}", f"{theirs[layer] / ours:.1f}×"])
    print(header("python benchmarks/transformerlens.py peer/bin/python"))
    print()
    print(table(["layer", "TransformerLens ms a neuron", "vc.exact ms a neuron", "ratio"], rows))


if __name__ == "__main__":
    if sys.argv[1:] == ["--peer"]:
        peer()
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        print(__doc__)
