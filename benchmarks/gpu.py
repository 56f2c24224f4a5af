"""A GPU at work: seconds, peak memory, the share of its matrix rate and of its time, and what `vc.forecast` said.

Random weights, made on the device, in bfloat16: nothing is fetched. The pairs are random tokens of four lengths that
differ in one or two positions. The device's matrix rate is measured in the same run, on products of the shapes of the
model's own MLP; "of the rate" is token-layers times the multiplications of one (twice the weights of a block) against
that. "device busy" is the time of all kernels of a call on sixteen of the pairs against the time that it took: what is
missing is the processor, which was not fast enough in asking. The first call of each kind on two pairs is not timed.

"Long" is one pair of 4,096 tokens: eap-ig, and the circuit of a fiftieth of the edges by it. "Features" are those of a
random TopK dictionary at the stream. Every line is printed as soon as it is known, so a run that is stopped loses
nothing; `--no-measure` leaves out the timing that a forecast's seconds need.

    python benchmarks/gpu.py                              the shapes of Llama-3-8B and Qwen2.5-0.5B
    python benchmarks/gpu.py --only eap eap-ig circuits   some of the calls
    python benchmarks/gpu.py --shapes tiny --device cpu   the script itself, on any machine
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import header, peak_gib, table
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.dictionaries import Dictionary, Encoder
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
#: Shares of the edges of the circuits by signed importance; as many are made by |score|.
SIZES = (0.002, 0.01, 0.05, 0.2, 1.0)
#: Features of a dictionary for each number of the stream, those of a token, and those that run alone.
WIDER, K, FEATURES = 4, 32, 500
#: Tokens of the one long pair, and how many of them at its end differ.
LONG, LATE = 4096, 2
#: Kinds of calls.
ONLY = ("heads", "neurons", "atp", "eap", "eap-ig", "circuits", "features", "long")


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


def long_pair(vocabulary: int, tokens: int) -> Task:
    """One pair of random tokens that differs in its second one and in the last few."""
    prompt = np.random.default_rng(0).integers(5, vocabulary - 5, tokens)
    other = prompt.copy()
    other[[1, *range(-LATE, 0)]] += 1
    return Task("long", (tuple(prompt.tolist()),), (tuple(other.tolist()),), ((3,),), ((4,),))


def random_dictionary(lm: Model) -> Dictionary:
    """A TopK dictionary of random features of the stream in the middle, its decoder its encoder turned round."""
    drawn = torch.randn(lm.width, WIDER * lm.width, generator=torch.Generator().manual_seed(0))
    weight = drawn / drawn.norm(dim=0)
    encoder = Encoder(weight, torch.zeros(weight.shape[1]), "topk", k=K)
    return Dictionary.of(encoder, weight.T.contiguous(), site=f"r{lm.layers // 2}")


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


@dataclass
class Call:
    """What is measured: a verb with its arguments, on which pairs, and on which it is run before and profiled."""

    name: str
    lm: Model
    verb: Callable[..., Any]
    task: Task
    arguments: dict[str, Any]
    before: Task
    profiled: Task | None

    def __call__(self, task: Task) -> Any:
        """Make the call on some pairs."""
        return self.verb(self.lm, task, **self.arguments, show_progress=False)


def calls(lm: Model, task: Task, only: list[str], tokens: int) -> Iterator[Call]:
    """The calls of the kinds that are asked for, each made ready when it is wanted."""

    def call(name: str, verb: Callable[..., Any], part: Task = task, lm: Model = lm, **arguments: Any) -> Call:
        return Call(name, lm, verb, part, arguments, part[:2], part[:PROFILED])

    middle, every = lm.layers // 2, f"{lm.graph.size:,} edges"
    if "heads" in only:
        yield call("exact, every head", vc.exact, units="heads")
    if "neurons" in only:
        neurons = [f"m{middle}.n{i}" for i in range(min(NEURONS, lm.neurons))]
        yield call(f"exact, {len(neurons):,} neurons of block {middle}", vc.exact, task[:FEW], units=neurons)
    if "atp" in only:
        yield call("atp, every head", vc.attribute, units="heads", method="atp")
        yield call("atp, every neuron", vc.attribute, units="neurons", method="atp")
    if "eap" in only:
        yield call(f"eap, {every}", vc.attribute, units="edges", method="eap")
    if "eap-ig" in only:
        yield call(f"eap-ig, {every}", vc.attribute, units="edges", method="eap-ig")
    if "circuits" in only:
        edges = vc.attribute(lm, task[:FEW], units="edges", method="eap", show_progress=False)
        yield call(f"{2 * len(SIZES)} circuits, signed and absolute", vc.curve, scores=edges, sizes=SIZES)
    if "features" in only:
        own = lm.reading(random_dictionary(lm))
        features = [f"f{middle}.{i}" for i in range(min(FEATURES, WIDER * lm.width))]
        yield call(f"exact, {len(features)} features of r{middle}", vc.exact, task[:FEW], own, units=features)
        yield call("atp, every feature", vc.attribute, task, own, units="features", method="atp")
    if "long" in only:
        yield from long_calls(lm, task[:2], tokens)


def long_calls(lm: Model, short: Task, tokens: int) -> Iterator[Call]:
    """Edges and a circuit of one long pair, first run on short ones."""
    pair, options = long_pair(lm.hf.config.vocab_size, tokens), {"units": "edges", "method": "eap-ig"}
    yield Call(f"eap-ig, one pair of {tokens:,} tokens", lm, vc.attribute, pair, options, short, None)
    scores = vc.attribute(lm, short, units="edges", method="eap", show_progress=False)
    circuit = {"circuit": vc.select(scores, n=lm.graph.size // 50)}
    yield Call(f"a circuit, one pair of {tokens:,} tokens", lm, vc.faithfulness, pair, circuit, short, None)


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


def measured(lm: Model, call: Call) -> Measured:
    """Run a call on two pairs, then on all, then on a few under a profiler."""
    on_gpu = lm.device.type == "cuda"
    call(call.before)
    waited(lm)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(lm.device)
    before = torch.cuda.memory_allocated(lm.device) if on_gpu else peak_gib() * 2**30
    began = time.perf_counter()
    found = call(call.task)
    waited(lm)
    took = time.perf_counter() - began
    most = torch.cuda.max_memory_allocated(lm.device) if on_gpu else peak_gib() * 2**30
    part, token_layers = call.profiled, found.cost.token_layers
    del found
    share = float("nan") if part is None else busy(lm, lambda: call(part))
    return Measured(took, most - before, token_layers, share)


def contracts(lm: Model) -> str:
    """Which contracts hold, in words, and how long that took."""
    began = time.perf_counter()
    outcomes = lm.check(strict=False)
    waited(lm)
    failed = [str(one) for one in outcomes if not one.ok]
    took = time.perf_counter() - began
    return f"{len(outcomes) - len(failed)} of {len(outcomes)} contracts hold ({took:.1f} s). " + " ".join(failed)


#: Columns of the table.
COLUMNS = (
    *("call", "pairs", "token-layers", "/ forecast", "seconds", "forecast", "(took)", "MiB at most"),
    *("forecast", "of the rate", "device busy"),
)


def reported(name: str, device: torch.device, dtype: torch.dtype, chosen: argparse.Namespace) -> None:
    """All measurements of one shape, printed as they come."""
    began = time.perf_counter()
    lm = random_model(name, device, dtype)
    waited(lm)
    block = sum(parameter.numel() for parameter in lm.decoder.blocks[0].module.parameters())
    rate, task = matrix_rate(lm), pairs(lm.hf.config.vocab_size, chosen.pairs)
    print(
        f"\n### {name}, {str(dtype).removeprefix('torch.')}: {lm.layers} blocks of {block / 1e6:,.0f} million weights, "
        f"made in {time.perf_counter() - began:.1f} s; matrix rate {rate / 1e12:,.3g} TFLOP/s\n",
        flush=True,
    )
    if chosen.contracts:
        print(contracts(lm) + "\n", flush=True)
    print(table(list(COLUMNS), []), flush=True)
    asked = calls(lm, task, chosen.only, chosen.tokens)
    while (call := next(asked, None)) is not None:
        try:
            cells = row(call, chosen.measure, 2 * block / rate)
        except (vc.VeracausaError, RuntimeError) as error:  # the next call may do
            cells = [call.name, len(call.task), *[""] * 8, " ".join(str(error).split())]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def row(call: Call, measure: bool, per_token_layer: float) -> list[object]:
    """A call's forecast, and what it took; `per_token_layer`: seconds of one at the device's matrix rate."""
    began = time.perf_counter()
    price = vc.forecast(call.verb, call.lm, call.task, measure=measure, **call.arguments)
    told = time.perf_counter() - began
    took = measured(call.lm, call)
    most, forecast = took.memory / 2**20, price.memory.beside / 2**20
    said = "–" if price.seconds is None else f"{price.seconds:,.1f}"
    return [
        call.name, len(call.task), f"{took.token_layers:,}", f"{took.token_layers / price.token_layers:.3f}",
        f"{took.seconds:,.2f}", said, f"{told:.1f}", f"{most:,.0f}", f"{forecast:,.0f}",
        f"{took.token_layers * per_token_layer / took.seconds:.0%}",
        "–" if np.isnan(took.busy) else f"{took.busy:.0%}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["llama-3-8b", "qwen2.5-0.5b"])
    parser.add_argument("--only", nargs="+", choices=ONLY, default=list(ONLY))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--tokens", type=int, default=LONG, help="of the long pair")
    parser.add_argument("--contracts", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--measure", action=argparse.BooleanOptionalAction, default=True)
    chosen = parser.parse_args()
    device, dtype = torch.device(chosen.device), getattr(torch, chosen.dtype)
    print(header("python benchmarks/gpu.py"), flush=True)
    if device.type == "cuda":
        print(f"\n{torch.cuda.get_device_name(device)}, {chosen.pairs} pairs of {', '.join(map(str, LENGTHS))} tokens")
    for name in chosen.shapes:
        reported(name, device, dtype, chosen)
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
