"""Exact effects of single neurons of SmolLM2-135M on the published pair, against one hooked full forward a neuron.

For each block: milliseconds per neuron of `vc.exact` and of the notebook way (the whole model with one hook, full
prompt, in the same process), their ratio, the rate in GFLOP/s against the rate of a bare matrix product measured in the
same run, and the largest difference of the effects that both computed.

Work of a neuron in block l: (L − 1 − l) blocks × 7 positions × 7.08 MFLOP (3.54 million parameters of a block, 2
operations each); bound by matrix products while a chunk's activations stay in the last-level cache.

    python benchmarks/neurons.py            blocks 0, 8, 15, 22, 28 (about two minutes)
    python benchmarks/neurons.py --third    the neurons of the last third of the blocks in one call, alone
    python benchmarks/neurons.py --all      all 46,080 neurons, as well

What a call does once (the bare runs, their guards, the weights' digest) is shared by all neurons of the call.
"""

from __future__ import annotations

import sys
import time

import torch
from common import header, matrix_rate, peak_gib, table

import veracausa as vc

BLOCKS = (0, 8, 15, 22, 28)
BLOCK_FLOP = 2 * 3_538_944
NAIVE = 24  # hooked forwards per block


def naive(lm: vc.Model, task: vc.Task, layer: int, count: int) -> tuple[float, torch.Tensor]:
    """Seconds a neuron and effects, each by one whole forward with a hook on the down projection's input."""
    clean, corrupted = (torch.tensor(ids) for ids in (task.clean, task.corrupted))
    down = lm.decoder.blocks[layer].mlp_out
    good, bad = task.correct[0][0], task.incorrect[0][0]
    kept = {}
    with torch.no_grad():
        handle = down.register_forward_pre_hook(lambda _, args: kept.update(a=args[0]))
        lm.hf(corrupted)
        handle.remove()

        def metric() -> float:
            logits = lm.hf(clean).logits[0, -1]
            return float(logits[good] - logits[bad])

        before = metric()
        effects = []
        began = time.perf_counter()
        for neuron in range(count):

            def patch(_: object, args: tuple[torch.Tensor], neuron: int = neuron) -> tuple[torch.Tensor]:
                value = args[0].clone()
                value[..., neuron] = kept["a"][..., neuron]
                return (value,)

            handle = down.register_forward_pre_hook(patch)
            effects.append(metric() - before)
            handle.remove()
        return (time.perf_counter() - began) / count, torch.tensor(effects)


def last_third(lm: vc.Model, task: vc.Task, positions: int, share: int = 8) -> str:
    """Rate of every `share`-th neuron of the last third of the blocks in one call: seconds of two, the call and a small
    one, so that what is done once counts as it does for all of them. Processor seconds of one thread."""
    torch.set_num_threads(1)
    layers = range(2 * lm.layers // 3, lm.layers)
    names = [f"m{layer}.n{i}" for layer in layers for i in range(0, lm.neurons, share)]
    flop = sum(lm.layers - 1 - int(name[1:].partition(".")[0]) for name in names) * positions * BLOCK_FLOP
    spent = []
    for some in (names[:2], names[:2], names):
        began = time.process_time()
        vc.exact(lm, task, units=some, show_progress=False)
        spent.append(time.process_time() - began)
    rate = matrix_rate(clock=time.process_time)
    whole = share * (spent[2] - spent[1]) + spent[1]
    found = share * flop / whole / 1e9
    return (
        f"{share * len(names):,} neurons of blocks {layers[0]} to {layers[-1]}, by {len(names):,} of them: {found:.0f} "
        f"GFLOP/s of {rate:.0f} ({found / rate:.0%}), {whole:.0f} s; a call of two neurons {spent[1]:.2f} s."
    )


def main() -> None:
    lm = vc.load("smollm2-135m")
    task = vc.tasks.published_pair(lm)
    for parameter in lm.hf.parameters():
        parameter.requires_grad_(False)
    positions = len(task.clean[0]) - task.first_difference[0]
    if "--third" in sys.argv:
        print(last_third(lm, task, positions))
        return
    gap = float(lm.measure(task).gap)
    loaded, rate = peak_gib(), matrix_rate()
    rows, ratios = [], []
    for layer in BLOCKS:
        names = [f"m{layer}.n{i}" for i in range(lm.neurons)]
        vc.exact(lm, task, units=names[:64], show_progress=False)
        slow, reference = naive(lm, task, layer, NAIVE)
        began = time.perf_counter()
        scores = vc.exact(lm, task, units=names, show_progress=False)
        fast = (time.perf_counter() - began) / len(names)
        gflops = (lm.layers - 1 - layer) * positions * BLOCK_FLOP / fast / 1e9
        error = float((scores.values[0, :NAIVE] - reference).abs().max()) / abs(gap)
        ratios.append(slow / fast)
        rows.append(
            [layer, f"{slow * 1e3:.1f}", f"{fast * 1e3:.2f}", f"{slow / fast:.1f}×", f"{gflops:.0f}", f"{error:.1e}",
             f"{scores.cost.token_layers:,}"]
        )  # fmt: skip
    print(header("python benchmarks/neurons.py"))
    print(f"\nMatrix product [1024 × 576] · [576 × 1536] in the same run: {rate:.0f} GFLOP/s.\n")
    print(
        table(
            ["block", "hooked forward ms", "vc.exact ms", "ratio", "GFLOP/s", "max error / gap", "token-layers"], rows
        )
    )
    mean = sum(float(r[1]) for r in rows) / sum(float(r[2]) for r in rows)
    peak = peak_gib() - loaded
    print(f"\nOver the five blocks together {mean:.1f}×; peak memory {peak:.2f} GiB above the loaded model.")
    if "--all" in sys.argv:
        began = time.perf_counter()
        scores = vc.exact(lm, task, units="neurons", show_progress=True)
        took = time.perf_counter() - began
        flop = scores.cost.token_layers * BLOCK_FLOP
        work = f"{flop / took / 1e9:.0f} GFLOP/s, {scores.cost.token_layers:,} token-layers"
        print(f"\nAll {len(scores):,} neurons: {took:.0f} s, {work}.")


if __name__ == "__main__":
    main()
