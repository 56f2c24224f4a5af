"""The trained model with a known circuit, from the files of this package.

`data/registers.safetensors` (float32) and `data/registers.json`; `scripts/train_ground_truth.py` makes both. It is a
GPT-2 of Hugging Face's own class: three layers, four heads, norms, biases, tied embeddings, a softmax that looks back
only, and weights that an optimizer found: what compiled models lack.
"""

from __future__ import annotations

import json
from importlib.resources import files

import torch
from safetensors.torch import load
from transformers import GPT2Config, GPT2LMHeadModel

from veracausa.anatomy import decoder_of
from veracausa.ground_truth.registers import WORDS, Registers
from veracausa.model import Model

#: Name of the stored files.
NAME = "registers"


def configuration() -> GPT2Config:
    """Sizes of the trained model."""
    return GPT2Config(
        vocab_size=len(WORDS),
        n_positions=6,
        n_embd=48,
        n_layer=3,
        n_head=4,
        n_inner=96,
        initializer_range=0.07,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def load_trained(*, dtype: torch.dtype = torch.float32) -> tuple[Model, Registers]:
    """A GPT-2 that was trained to a given circuit, and its program, with prompt pairs and the true circuit.

    Args:
        dtype: precision of the weights: float64 for effects without rounding.

    >>> lm, program = vc.ground_truth.load_trained()
    >>> vc.ground_truth.recovery(vc.exact(lm, program.task(n=64), units="edges"), program).average_precision
    """
    folder = files("veracausa.ground_truth") / "data"
    header = json.loads((folder / f"{NAME}.json").read_text(encoding="utf-8"))
    hf = GPT2LMHeadModel(configuration())
    hf.load_state_dict(load((folder / f"{NAME}.safetensors").read_bytes()), strict=False)
    hf.tie_weights()
    hf = hf.eval().to(dtype=dtype)
    program = Registers(
        frozenset(header["nodes"]),
        frozenset(header["edges"]),
        header["floor"],
        header["largest_false"],
        header["smallest_true"],
    )
    source = f"{NAME}, trained in {header['steps']} steps (seed {header['seed']}), {str(dtype).removeprefix('torch.')}"
    return model_of(hf, program, source), program


def model_of(hf: GPT2LMHeadModel, program: Registers, source: str) -> Model:
    """Such a model as the library takes it; `source` says which weights these are."""
    pairs = program.pairs()
    probe = program.task_of([pairs[len(pairs) // 3], pairs[len(pairs) // 2]])
    return Model(hf, None, f"trained-{NAME}", source, decoder_of(hf), probe=probe)
