"""Compiled models from the files of this package: weights as tracr made them, and the true circuit.

One program is `data/<name>.safetensors` (float32, dense) and `data/<name>.json`; `scripts/compile_ground_truth.py`
rebuilds both. Token and position embeddings are stored apart, as the compiler has them, and added here into the one
table that `CompiledForCausalLM` reads.
"""

from __future__ import annotations

import json
from importlib.resources import files

import torch
from safetensors.torch import load

from veracausa.anatomy import decoder_of
from veracausa.errors import MethodError
from veracausa.ground_truth.compiled import CompiledConfig, CompiledForCausalLM
from veracausa.ground_truth.programs import ALGORITHMS, Program
from veracausa.model import Model
from veracausa.tasks.task import Task

#: Names of the stored programs.
COMPILED: tuple[str, ...] = tuple(ALGORITHMS)


def load_compiled(name: str, *, dtype: torch.dtype = torch.float32) -> tuple[Model, Program]:
    """A compiled model and its program, with prompt pairs and the true circuit.

    Args:
        name: one of `COMPILED`.
        dtype: precision of the weights, which are exact in any: float64 for effects without rounding.

    Raises:
        MethodError: there is no such program.

    >>> lm, program = vc.ground_truth.load_compiled("sort")
    >>> task = program.task(n=64)
    >>> sorted(program.edges)
    """
    if name not in COMPILED:
        raise MethodError(f"there is no compiled program {name!r}; the programs are {', '.join(COMPILED)}")
    folder = files("veracausa.ground_truth") / "data"
    header = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    hf = build(load((folder / f"{name}.safetensors").read_bytes()), header["heads"], dtype)
    program = Program(
        name,
        tuple(header["words"]),
        None if header["outputs"] is None else tuple(header["outputs"]),
        header["longest"],
        header["rasp"],
        frozenset(header["nodes"]),
        frozenset(header["edges"]),
    )
    source = f"{name} compiled by tracr {header['tracr']}, {str(dtype).removeprefix('torch.')}"
    lm = Model(hf, None, f"compiled-{name}", source, decoder_of(hf), probe=_probe(program))
    return lm, program


def build(weights: dict[str, torch.Tensor], heads: int, dtype: torch.dtype = torch.float32) -> CompiledForCausalLM:
    """The model of stored weights; sizes are read off their shapes."""
    own = dict(weights)
    word, position = own.pop("word_embedding"), own.pop("position_embedding")
    own["model.embed_tokens.weight"] = (position[:, None] + word).flatten(0, 1)
    inner, width = own["model.layers.0.self_attn.q_proj.weight"].shape
    config = CompiledConfig(
        vocab_size=len(word) * len(position),
        outputs=len(own["lm_head.weight"]),
        hidden_size=width,
        intermediate_size=len(own["model.layers.0.mlp.in_proj.weight"]),
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in own if name.startswith("model.layers.")),
        num_attention_heads=heads,
        head_dim=inner // heads,
    )
    hf = CompiledForCausalLM(config)
    hf.load_state_dict(own, strict=True)
    return hf.eval().to(dtype=dtype)


def _probe(program: Program) -> Task:
    """Two pairs for `lm.check()` to test the contracts on: in the middle of the longest inputs, and of shorter ones."""
    pairs = program.pairs()
    lengths = sorted({len(pair.clean) for pair in pairs}, reverse=True)[:2]
    alike = [[pair for pair in pairs if len(pair.clean) == length] for length in lengths]
    return program.task_of([group[len(group) // 2] for group in alike])
