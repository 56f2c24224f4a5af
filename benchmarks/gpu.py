"""A GPU at work: seconds, peak memory, the share of its matrix rate and of its time, and what `vc.forecast` said.

Random weights, made on the device, in bfloat16: nothing is fetched. The pairs are random tokens of four lengths that
differ in one or two positions. The device's matrix rate is measured in the same run, on products of the shapes of the
model's own MLP; "of the rate" is token-layers times the multiplications of one (twice the weights of a block) against
that. "device busy" is the time of all kernels of a call on sixteen of the pairs against the time that it took: what is
missing is the processor, which was not fast enough in asking. The first call of each kind on two pairs is not timed.

    python benchmarks/gpu.py                              the shapes of Llama-3-8B and Qwen2.5-0.5B
    python benchmarks/gpu.py --shapes tiny --device cpu   the script itself, on any machine
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import header, peak_gib, table
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.circuits.quality.curve import SIZES
from veracausa.model import Model
from veracausa.tasks.task import Task

SHAPES: dict[str, Callable[[], PretrainedConfig]] = {
    "llama-3-8b": lambda: LlamaConfig(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192, rms_norm_eps=1e-5,
    ),
    "qwen2.5-0.5b": lambda: Qwen2Config(
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, tie_word_embeddings=True,
    ),
    "tiny": lambda: LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2,
    ),
}  # fmt: skip
#: Pairs, and how long their prompts are, in turn.
PAIRS, LENGTHS = 100, (12, 17, 23, 31)
#: Pairs of the calls that run every unit alone, and of those that are only profiled.
FEW, PROFILED = 4, 16
NEURONS = 5000


@dataclass
class Measured:
    """What one call took: seconds, bytes beside the weights, token-layers, and the share of its time in kernels."""

    seconds: float
    memory: float
    token_layers: int
    busy: float


def pairs(vocabulary: int, count: int) -> Task:
    """Random tokens; the corrupted prompt differs from the clean one in one or two positions of its second half."""
    rng = np.random.default_rng(0)
    clean, corrupted = [], []
    for i in range(count):
        length = LENGTHS[i % len(LENGTHS)]
        prompt = rng.integers(0, vocabulary, length)
        other = prompt.copy()
        for at in rng.integers(length // 2, length, 2):
            other[at] = (other[at] + rng.integers(1, vocabulary)) % vocabulary
        clean.append(tuple(prompt.tolist()))
        corrupted.append(tuple(other.tolist()))
    answers = rng.integers(0, vocabulary, (2, count))
    right, wrong = (tuple((int(answer),) for answer in row) for row in answers)
    return Task("random-tokens", tuple(clean), tuple(corrupted), right, wrong)


def random_model(name: str, device: torch.device, dtype: torch.dtype) -> Model:
    """A model of that shape with random weights, frozen."""
    torch.manual_seed(0)
    config = SHAPES[name]()
    with device:
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return Model(hf.eval().requires_grad_(False), None, name, "random weights", decoder_of(hf))


def matrix_rate(lm: Model) -> float:
    """FLOP/s of products of 8,192 tokens with the weights of the model's own MLP."""
    rows = 8192 if lm.device.type == "cuda" else 256
    tokens = torch.randn(rows, lm.width, device=lm.device, dtype=lm.dtype)
    weights = torch.randn(lm.neurons, lm.width, device=lm.device, dtype=lm.dtype)
    times = []
    for _ in range(20):
        waited(lm)
        began = time.perf_counter()
        torch.nn.functional.linear(tokens, weights)
        waited(lm)
        times.append(time.perf_counter() - began)
    return 2 * rows * weights.numel() / min(times)


def waited(lm: Model) -> None:
    """Wait until the device has done what it was asked."""
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)


def calls(lm: Model, task: Task) -> dict[str, tuple[Callable[..., Any], Task, dict[str, Any]]]:
    """Name → verb, pairs, arguments."""
    edges = vc.attribute(lm, task[:FEW], units="edges", method="eap", show_progress=False)
    middle = lm.layers // 2
    neurons = [f"m{middle}.n{i}" for i in range(min(NEURONS, lm.neurons))]
    return {
        "exact, every head": (vc.exact, task, {"units": "heads"}),
        f"exact, {len(neurons):,} neurons of block {middle}": (vc.exact, task[:FEW], {"units": neurons}),
        "atp, every head": (vc.attribute, task, {"units": "heads", "method": "atp"}),
        "atp, every neuron": (vc.attribute, task, {"units": "neurons", "method": "atp"}),
        f"eap, {lm.graph.size:,} edges": (vc.attribute, task, {"units": "edges", "method": "eap"}),
        "eap-ig, every edge": (vc.attribute, task, {"units": "edges", "method": "eap-ig"}),
        f"{len(SIZES)} nested circuits, signed and absolute": (vc.curve, task, {"scores": edges}),
    }


def busy(lm: Model, run: Callable[[], object]) -> float:
    """Time of all kernels against the time of the call; nan without a GPU."""
    if lm.device.type != "cuda":
        return float("nan")
    waited(lm)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        began = time.perf_counter()
        run()
        waited(lm)
        took = time.perf_counter() - began
    events = found.profiler.kineto_results.events()  # type: ignore[union-attr]
    return sum(event.duration_ns() for event in events if "CUDA" in str(event.device_type())) / 1e9 / took


def measured(lm: Model, verb: Callable[..., Any], task: Task, arguments: dict[str, Any]) -> Measured:
    """Run a call on two pairs, then on all, then on a few under a profiler."""
    on_gpu = lm.device.type == "cuda"
    verb(lm, task[:2], **arguments, show_progress=False)
    waited(lm)
    before = torch.cuda.memory_allocated(lm.device) if on_gpu else peak_gib() * 2**30
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(lm.device)
    began = time.perf_counter()
    found = verb(lm, task, **arguments, show_progress=False)
    waited(lm)
    took = time.perf_counter() - began
    most = torch.cuda.max_memory_allocated(lm.device) if on_gpu else peak_gib() * 2**30
    cost = found.signed[0].cost if isinstance(found, vc.circuits.Curve) else found.cost
    part = task[:PROFILED]
    return Measured(
        took, most - before, cost.token_layers, busy(lm, lambda: verb(lm, part, **arguments, show_progress=False))
    )


def contracts(lm: Model) -> str:
    """Which contracts hold, in words, and how long that took."""
    began = time.perf_counter()
    outcomes = lm.check(strict=False)
    waited(lm)
    failed = [str(one) for one in outcomes if not one.ok]
    took = time.perf_counter() - began
    return f"{len(outcomes) - len(failed)} of {len(outcomes)} contracts hold ({took:.1f} s). " + " ".join(failed)


def reported(name: str, device: torch.device, dtype: torch.dtype, count: int, check: bool) -> None:
    """All measurements of one shape, printed as they come."""
    began = time.perf_counter()
    lm = random_model(name, device, dtype)
    waited(lm)
    block = sum(parameter.numel() for parameter in lm.decoder.blocks[0].module.parameters())
    rate, task = matrix_rate(lm), pairs(lm.hf.config.vocab_size, count)
    print(
        f"\n### {name}, {str(dtype).removeprefix('torch.')}: {lm.layers} blocks of {block / 1e6:,.0f} million weights, "
        f"made in {time.perf_counter() - began:.1f} s; matrix rate {rate / 1e12:,.3g} TFLOP/s\n",
        flush=True,
    )
    if check:
        print(contracts(lm) + "\n", flush=True)
    rows: list[list[object]] = []
    for what, (verb, part, arguments) in calls(lm, task).items():
        began = time.perf_counter()
        price = vc.forecast(verb, lm, part, **arguments)
        told = time.perf_counter() - began
        took = measured(lm, verb, part, arguments)
        share = took.token_layers * 2 * block / took.seconds / rate
        most, forecast = took.memory / 2**20, price.memory.beside / 2**20
        said = "–" if price.seconds is None else f"{price.seconds:,.1f}"
        rows.append(
            [
                what, len(part), f"{took.token_layers:,}", f"{took.token_layers / price.token_layers:.3f}",
                f"{took.seconds:,.2f}", said, f"{told:.1f}", f"{most:,.0f}", f"{forecast:,.0f}", f"{share:.0%}",
                "–" if np.isnan(took.busy) else f"{took.busy:.0%}",
            ]
        )  # fmt: skip
        print("   ", *rows[-1], flush=True)
    columns = [
        *("call", "pairs", "token-layers", "/ forecast", "seconds", "forecast", "(took)", "MiB at most"),
        *("forecast", "of the rate", "device busy"),
    ]
    print("\n" + table(columns, rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["llama-3-8b", "qwen2.5-0.5b"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--contracts", action=argparse.BooleanOptionalAction, default=True)
    chosen = parser.parse_args()
    device, dtype = torch.device(chosen.device), getattr(torch, chosen.dtype)
    print(header("python benchmarks/gpu.py"))
    if device.type == "cuda":
        print(f"\n{torch.cuda.get_device_name(device)}, {chosen.pairs} pairs of {', '.join(map(str, LENGTHS))} tokens")
    for name in chosen.shapes:
        reported(name, device, dtype, chosen.pairs, chosen.contracts)


if __name__ == "__main__":
    main()
