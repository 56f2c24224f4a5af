"""Exact effects of neurons of SmolLM2-135M: vc.exact against TransformerLens's activation patching.

TransformerLens's `patching.generic_activation_patch` runs one whole hooked forward per unit. Both sides: the same
weights, the published pair, float32, the same machine and threads, in turn; the numbers are compared, too.
TransformerLens needs an environment of its own:

    python -m venv peer && peer/bin/pip install torch==2.13.0 transformer-lens
    python benchmarks/transformerlens.py peer/bin/python
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from tempfile import TemporaryDirectory

LAYERS, THEIRS, OURS = (0, 15, 28), 24, 768


def peer(folder: str, clean: list[int], corrupted: list[int], answers: list[int]) -> None:
    """Run inside the peer's environment: print, by layer, milliseconds per neuron and the effects."""
    import pandas as pd
    import torch
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    x, y = torch.tensor([clean]), torch.tensor([corrupted])

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, answers[0]] - logits[0, -1, answers[1]]

    def setter(activation: torch.Tensor, index: list[int], source: torch.Tensor) -> torch.Tensor:
        activation[..., index[1]] = source[..., index[1]]
        return activation

    found = {}
    with torch.no_grad():
        _, cache = model.run_with_cache(y)
        before = metric(model(x))
        for layer in LAYERS:
            table = pd.DataFrame({"layer": [layer] * THEIRS, "neuron": range(THEIRS)})
            began = time.perf_counter()
            effects = patching.generic_activation_patch(model, x, cache, metric, setter, "post", index_df=table)
            found[layer] = [1e3 * (time.perf_counter() - began) / THEIRS, (effects - before).tolist()]
    print(json.dumps(found))


def main(python: str) -> None:
    from common import header, table

    import veracausa as vc

    lm = vc.load("smollm2-135m", device="cpu")
    pair = vc.tasks.published_pair(lm)
    answers = [pair.correct[0][0], pair.incorrect[0][0]]
    with TemporaryDirectory() as folder:
        lm.hf.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        asked = json.dumps([folder, pair.clean[0], pair.corrupted[0], answers])
        ran = subprocess.run([python, __file__, "--peer", asked], stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        sys.exit("The peer's side failed; see above. Is TransformerLens 4 installed there?")
    theirs = json.loads(ran.stdout.splitlines()[-1])
    rows = []
    for layer in LAYERS:
        began = time.perf_counter()
        scores = vc.exact(lm, pair, units=[f"m{layer}.n{i}" for i in range(OURS)], show_progress=False)
        ours = 1e3 * (time.perf_counter() - began) / OURS
        cost, effects = theirs[str(layer)]
        worst = max(abs(a - b) for a, b in zip(effects, scores.values[0].tolist(), strict=False))
        share = worst / abs(float(scores.gap[0]))
        rows.append([layer, f"{cost:.1f}", f"{ours:.2f}", f"{cost / ours:.1f}×", f"{share:.1e}"])
    print(header("python benchmarks/transformerlens.py peer/bin/python"))
    print()
    print(table(["block", "TransformerLens ms", "vc.exact ms", "ratio", "largest difference / gap"], rows))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(*json.loads(sys.argv[2]))
    elif len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        sys.exit(__doc__)
