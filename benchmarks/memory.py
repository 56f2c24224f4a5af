"""What `vc.forecast` says of memory, part by part, against what each call then takes at its peak.

On a CPU each call runs in a process of its own, after a small call of the same kind: the highest resident set during
the call, less the set just before it (the weights are in it). Blocks of 64 KB and more are given back to the system as
soon as they are free, so that nothing of the allocator's own is counted (Linux alone). On a GPU all calls run in one
process, and the peak is that of torch's allocator, less what is held before the call.

    python benchmarks/memory.py                    all calls on a CPU, float32 and bfloat16 (about five minutes)
    python benchmarks/memory.py "exact heads"      the calls whose names begin so
    python benchmarks/memory.py --device cuda      all calls on a GPU, bfloat16 (under two minutes)
    python benchmarks/memory.py circuits --shape long --tokens 2400 --memory 300e6
    python benchmarks/memory.py --shape short --family gpt2 gemma2 phi mixtral mamba olmo2
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import header, table
from transformers import AutoConfig, AutoModelForCausalLM

import veracausa as vc
from veracausa.anatomy import decoder_of
from veracausa.dictionaries import Dictionary, Encoder
from veracausa.engine.budget import within
from veracausa.model import Model
from veracausa.tasks.task import Task
from veracausa.units.every_unit import all_edges, all_units
from veracausa.units.table import Units


@dataclass(frozen=True)
class Shape:
    """A random model, and pairs of prompts that first differ at their second token."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    neurons: int
    vocabulary: int
    pairs: int
    tokens: int
    family: str = "llama"

    def model(self, dtype: torch.dtype, device: str) -> Model:
        """Random weights, made where they will be."""
        config = AutoConfig.for_model(self.family, **self.settings())
        torch.manual_seed(0)
        with torch.device(device):
            hf = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
        return Model(hf, None, f"{self.family}-random", "random weights", decoder_of(hf))

    def settings(self) -> dict[str, Any]:
        """Of the family's configuration."""
        sizes = {
            "vocab_size": self.vocabulary, "hidden_size": self.width, "intermediate_size": self.neurons,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 8192, "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 2,
        }  # fmt: skip
        return sizes | FAMILIES.get(self.family, lambda shape: {})(self)

    def task(self, pairs: int = 0, tokens: int = 0) -> Task:
        """Pairs that differ in one token."""
        count, length = pairs or self.pairs, tokens or self.tokens
        clean = np.random.default_rng(0).integers(5, self.vocabulary - 5, (count, length))
        corrupted = clean.copy()
        corrupted[:, 1] += 1
        rows = [tuple(map(tuple, prompts.tolist())) for prompts in (clean, corrupted)]
        return Task("random", rows[0], rows[1], ((3,),) * count, ((4,),) * count)


#: What families call otherwise, or have beside.
FAMILIES: dict[str, Callable[[Shape], dict[str, Any]]] = {
    "gpt2": lambda shape: {
        "n_embd": shape.width, "n_layer": shape.layers, "n_head": shape.heads, "n_inner": shape.neurons,
        "n_positions": 8192,
    },
    "gemma2": lambda shape: {"head_dim": shape.width // shape.heads, "query_pre_attn_scalar": 32},
    "mixtral": lambda shape: {"num_local_experts": 8, "num_experts_per_tok": 2},
    "mamba": lambda shape: {"state_size": 16, "use_mambapy": False, "expand": 2, "time_step_rank": 16},
}  # fmt: skip
#: Parts of a forecast beside the weights.
PARTS = ("recordings", "rows", "gradients", "scores")
#: Many short prompts, and few long ones.
CPU = {
    "short": Shape(8, 256, 8, 4, 768, 4000, 24, 64),
    "long": Shape(6, 256, 8, 4, 768, 4000, 1, 1200),
}
GPU = {
    "short": Shape(16, 2048, 32, 8, 8192, 32_000, 64, 64),
    "long": Shape(16, 2048, 32, 8, 8192, 32_000, 2, 2048),
}


def few(lm: Model) -> int:
    """So many units that chunks are full."""
    return 3 if lm.device.type == "cpu" else 20


def some_edges(lm: Model, task: Task) -> Units:
    """A few edges of the whole graph."""
    edges = all_edges(lm)
    return edges[np.sort(np.random.default_rng(0).permutation(len(edges))[: 2 * few(lm)])]


def late_heads(lm: Model, task: Task) -> Units:
    """Heads of the block in the middle at one position."""
    places = all_units(lm, "heads", len(task.clean[0]))
    return places[np.flatnonzero((places.layer == lm.layers // 2) & (places.position == 2))]


def with_features(lm: Model) -> Model:
    """With a random dictionary at the stream in the middle, eight times as wide."""
    weight = torch.randn(lm.width, 8 * lm.width, generator=torch.Generator().manual_seed(0)) / lm.width**0.5
    encoder = Encoder(weight, torch.zeros(weight.shape[1]), "topk", k=32)
    return lm.reading(Dictionary.of(encoder, weight.T.contiguous(), site=f"r{lm.layers // 2}"))


IG: dict[str, Any] = {"nodes": 3}
#: Name → a verb, and what it is called with; functions are asked with model and pairs.
CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "exact heads": (vc.exact, {"units": lambda lm, task: [f"a0.h{head}" for head in range(min(few(lm), lm.heads))]}),
    "exact neurons": (vc.exact, {"units": lambda lm, task: [f"m{lm.layers // 2}.n{i}" for i in range(few(lm))]}),
    "exact heads at positions": (vc.exact, {"units": late_heads}),
    "exact mixers": (vc.exact, {"units": "mixers"}),
    "exact features": (vc.exact, {"units": lambda lm, task: [f"f{lm.layers // 2}.{i}" for i in range(9 * few(lm))]}),
    "exact edges": (vc.exact, {"units": some_edges}),
    "atp heads": (vc.attribute, {}),
    "atp neurons": (vc.attribute, {"units": "neurons"}),
    "atp mixers": (vc.attribute, {"units": "mixers"}),
    "atp features": (vc.attribute, {"units": "features"}),
    "ig heads": (vc.attribute, {
        "units": lambda lm, task: [f"a{lm.layers // 2}.h0", f"a{lm.layers - 1}.h1"], "method": "ig"} | IG),
    "eap": (vc.attribute, {"units": "edges", "method": "eap"}),
    "eap-ig": (vc.attribute, {"units": "edges", "method": "eap-ig"} | IG),
    "ceap": (vc.attribute, {"units": "edges", "method": "ceap"} | IG),
    "eap at positions": (vc.attribute, {"units": "edges@positions", "method": "eap"}),
    "mask": (vc.estimates.learn_mask, {"steps": 2}),
    "circuits": (vc.curve, {
        "scores": lambda lm, task: vc.attribute(lm, task, units="edges", method="eap", show_progress=False),
        "sizes": (0.01, 0.3)}),
    "learned circuit": (vc.circuits.learn, {"how": "top-k", "keep": 20, "steps": 2}),
    "discover": (vc.discover, {"method": "eap", "edges": 20, "sizes": (0.05,), "top": 2, "sample": 2}),
    "verify": (vc.verify, {
        "estimate": lambda lm, task: vc.attribute(lm, task, show_progress=False), "top": 3, "sample": 1}),
}  # fmt: skip


def ready(lm: Model, task: Task, name: str) -> tuple[Any, dict[str, Any]]:
    """The call with the units or scores that it works on."""
    verb, options = CALLS[name]
    return verb, {key: one(lm, task) if callable(one) else one for key, one in options.items()}


def resident(name: str) -> int:
    """Bytes: VmRSS now, VmHWM at most."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def one(
    shape: Shape, name: str, dtype: torch.dtype, device: str, lm: Model | None = None, memory: int | None = None
) -> dict[str, float]:
    """Forecast and run one call in this process."""
    lm, small = lm or shape.model(dtype, device), shape.task(2, 8)
    lm = with_features(lm) if name.endswith("features") else lm
    verb, options = ready(lm, small, name)
    verb(lm, small, **options, show_progress=False)
    task = shape.task()
    verb, options = ready(lm, task, name)
    said = vc.forecast(verb, lm, task, measure=False, memory=memory, **options).memory
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
    began = time.perf_counter()
    with within(memory):
        verb(lm, task, **options, show_progress=False)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident("VmHWM")
    return said.parts | {"seconds": time.perf_counter() - began, "peak": peak - before}


def row(found: dict[str, float]) -> list[object]:
    """A call's parts, their sum, the peak, and what the forecast is of it."""
    parts = [found[part] for part in PARTS]
    said = sum(parts)
    cells: list[object] = [f"{value / 2**20:,.0f}" for value in parts]
    return [*cells, f"{said / 2**20:,.0f}", f"{found['peak'] / 2**20:,.0f}", f"{said / max(1, found['peak']):.2f}"]


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("begins", nargs="?", default="")
    asked.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    asked.add_argument("--shape", default="")
    asked.add_argument("--dtype", default="")
    asked.add_argument("--family", nargs="+", default=["llama"])
    asked.add_argument("--tokens", type=int, default=0, help="of a prompt, in the place of the shape's")
    asked.add_argument(
        "--memory", type=float, default=0, help="bytes to plan with, in the place of those that are free"
    )
    asked.add_argument("--alone", action="store_true", help="run the one call of this name in this process")
    given = asked.parse_args()
    shapes = GPU if given.device == "cuda" else CPU
    if given.alone:
        shape = replace(shapes[given.shape], family=given.family[0], tokens=given.tokens)
        found = one(shape, given.begins, getattr(torch, given.dtype), given.device, memory=int(given.memory) or None)
        print(json.dumps(found))
        return
    print(header(f"python benchmarks/memory.py --device {given.device}"))
    rows: list[list[object]] = []
    kinds = [given.dtype] if given.dtype else ["bfloat16"] if given.device == "cuda" else ["float32", "bfloat16"]
    for family, dtype, (size, base) in itertools.product(given.family, kinds, shapes.items()):
        if given.shape not in ("", size):
            continue
        shape = replace(base, family=family, tokens=given.tokens or base.tokens)
        lm = shape.model(getattr(torch, dtype), given.device) if given.device == "cuda" else None
        for name in [one for one in CALLS if one.startswith(given.begins)]:
            try:
                found = measured(shape, size, name, dtype, given, lm)
            except subprocess.CalledProcessError:
                print(f"{name}, {family}: no such call", file=sys.stderr, flush=True)
                continue
            what = f"{name}, {size if not given.tokens else f'{given.tokens:,} tokens'}, {dtype}"
            rows.append([what if family == "llama" else f"{family}: {what}", *row(found), f"{found['seconds']:.1f}"])
            print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print("\nMiB beside the weights.\n")
    print(table(["call", *PARTS, "said", "taken", "said / taken", "seconds"], rows))


def measured(
    shape: Shape, size: str, name: str, dtype: str, given: argparse.Namespace, lm: Model | None
) -> dict[str, float]:
    """One call, on a CPU in a process of its own."""
    if lm is not None:
        return one(shape, name, getattr(torch, dtype), given.device, lm, int(given.memory) or None)
    command = [sys.executable, __file__, name, "--alone", "--shape", size, "--dtype", dtype]
    command += ["--family", shape.family, "--tokens", str(shape.tokens), "--memory", str(given.memory)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    told = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True, env=environment
    ).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
