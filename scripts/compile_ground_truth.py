"""Rebuild the compiled models with known circuits: RASP programs → tracr → weights, true nodes and true edges.

    pip install '.[compile]'
    python scripts/compile_ground_truth.py            # rebuild everything in the package's data folder
    python scripts/compile_ground_truth.py sort --check    # recompute, compare with what is stored, write nothing

Each program is compiled and its weights are carried into `CompiledForCausalLM`. Then, on every input up to the longest,
the final residual stream and the outputs must equal tracr's own (float32, difference under 1e-5), and the decoded
outputs the algorithm in plain Python. The true circuit is computed from its definition (`ground_truth.truth`), on all
pairs. Every run gives the same files: no random number is used, and words and weights have a fixed order.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import haiku as hk
import jax.numpy as jnp
import numpy as np
import torch
from safetensors.torch import save
from tracr.compiler import compiling, lib
from tracr.rasp import rasp

from veracausa.ground_truth import truth
from veracausa.ground_truth.programs import ALGORITHMS, BOS, Program
from veracausa.ground_truth.stored import build

DATA = Path(__file__).parent.parent / "src" / "veracausa" / "ground_truth" / "data"


def frac_prevs():
    return lib.make_frac_prevs(rasp.tokens == "x")


def sort():
    return lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1)


def reverse():
    return lib.make_reverse(rasp.tokens)


def histogram():
    return lib.make_hist()


def double_histogram():
    hist = lib.make_hist().named("hist")
    alike = rasp.SelectorWidth(rasp.Select(hist, hist, rasp.Comparison.EQ)).named("alike")
    # `alike` positions hold words that occur `hist` times each
    return rasp.SequenceMap(lambda alike, hist: alike // max(hist, 1), alike, hist).named("double_histogram")


def sort_by_frequency():
    return lib.make_sort_freq(4)


def pair_balance():
    return lib.make_pair_balance(rasp.tokens, "(", ")")


def dyck():
    return lib.make_shuffle_dyck(["()"])


#: Name → (program, alphabet, words of the longest input).
PROGRAMS: dict[str, tuple[Callable, tuple, int]] = {
    "frac_prevs": (frac_prevs, ("w", "x", "y"), 5),
    "sort": (sort, (1, 2, 3, 4), 4),
    "reverse": (reverse, ("a", "b", "c"), 5),
    "histogram": (histogram, ("a", "b", "c"), 5),
    "double_histogram": (double_histogram, ("a", "b", "c"), 5),
    "sort_by_frequency": (sort_by_frequency, ("a", "b", "c"), 4),
    "pair_balance": (pair_balance, ("(", ")", "x"), 5),
    "dyck": (dyck, ("(", ")"), 4),
}
TOLERANCE = 1e-5


def carried_over(model, words: tuple, numerical: bool) -> dict[str, torch.Tensor]:
    """tracr's parameters under our names, in our order of words; every bias is zero and is left out."""
    params = {
        module: {name: np.asarray(value) for name, value in held.items()} for module, held in model.params.items()
    }
    for module, held in params.items():
        if "b" in held and held["b"].any():
            raise ValueError(f"{module} has a bias, which CompiledForCausalLM has not")
    encoding = model.input_encoder.encoding_map
    weights = {
        "word_embedding": params["token_embed"]["embeddings"][[encoding[word] for word in words]],
        "position_embedding": params["pos_embed"]["embeddings"],
        "lm_head.weight": unembedding(model, numerical),
    }
    for layer in range(model.model_config.num_layers):
        ours, theirs = f"model.layers.{layer}", f"transformer/layer_{layer}"
        for part, name in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "linear")):
            weights[f"{ours}.self_attn.{part}_proj.weight"] = params[f"{theirs}/attn/{name}"]["w"].T
        weights[f"{ours}.mlp.in_proj.weight"] = params[f"{theirs}/mlp/linear_1"]["w"].T
        weights[f"{ours}.mlp.down_proj.weight"] = params[f"{theirs}/mlp/linear_2"]["w"].T
    return {name: torch.tensor(np.ascontiguousarray(value, dtype=np.float32)) for name, value in weights.items()}


def unembedding(model, numerical: bool) -> np.ndarray:
    """tracr's projection to the outputs, [outputs, width]; a number gets a second output that is always 0."""
    unembed = hk.without_apply_rng(
        hk.transform(lambda x: model.get_compiled_model().unembed(x, use_unembed_argmax=False))
    )
    identity = jnp.eye(len(model.residual_labels))
    matrix = np.asarray(unembed.apply({}, identity)).reshape(len(identity), -1).T
    return np.concatenate([matrix, np.zeros_like(matrix)]) if numerical else matrix


def verify(model, hf, program: Program) -> float:
    """Largest difference between our final residual stream and tracr's over all inputs; outputs against the algorithm.

    Raises:
        ValueError: a difference over `TOLERANCE`, or an output that is not the algorithm's.
    """
    worst = 0.0
    for length in range(1, program.longest + 1):
        inputs = [words for words in program.inputs() if len(words) == length]
        ids = jnp.array([model.input_encoder.encode([BOS, *words]) for words in inputs])
        theirs = model.forward(model.params, ids)
        tokens = torch.tensor([program.tokens(words) for words in inputs])
        with torch.no_grad():
            residual = hf.model(tokens).last_hidden_state
            logits = hf(tokens).logits[:, 1:]
        worst = max(worst, float(np.abs(np.asarray(theirs.transformer_output.output) - residual.numpy()).max()))
        expected = [program.outputs_of(words) for words in inputs]
        if program.outputs is None:
            raw = np.asarray(theirs.unembedded_output)[:, 1:]
            worst = max(worst, float(np.abs(raw - logits[..., 0].numpy()).max()))
            error = float(np.abs(raw - np.array(expected)).max())
            if error > 1e-4:
                raise ValueError(f"{program.name}: an output is off by {error:.2g}")
        else:
            ours = [[program.outputs[i] for i in row] for row in logits.argmax(-1).tolist()]
            if ours != expected:
                wrong = next(i for i in range(len(inputs)) if ours[i] != expected[i])
                raise ValueError(f"{program.name} of {inputs[wrong]} is {ours[wrong]}, not {expected[wrong]}")
    if worst >= TOLERANCE:
        raise ValueError(f"{program.name}: our port differs from tracr's model by {worst:.2g}")
    return worst


def compiled(name: str) -> dict[str, bytes]:
    """Both files of a program; prints what was measured."""
    source, alphabet, longest = PROGRAMS[name]
    sop = source()
    model = compiling.compile_rasp_to_model(sop, set(alphabet), longest, causal=False, compiler_bos=BOS)
    numerical = not rasp.is_categorical(sop)
    outputs = None if numerical else tuple(model.output_encoder.encoding_map)
    program = Program(name, (BOS, *alphabet), outputs, longest, inspect.getsource(source))
    weights = carried_over(model, program.words, numerical)
    heads = model.model_config.num_heads
    difference = verify(model, build(weights, heads), program)
    pairs = program.pairs()
    names, shares = truth.effects(build(weights, heads, torch.float64), program, pairs)
    nodes, edges = truth.true_parts(names, shares)
    largest = shares.abs().amax(0)
    false, true = (largest[largest <= truth.THRESHOLD], largest[largest > truth.THRESHOLD])
    total = sum("->" in part for part in names)
    ends = {end.split("<")[0].replace("kv", "h") for edge in edges for end in edge.split("->")} - {"input", "logits"}
    header = {
        "tracr": version("tracr-pypi"),
        "rasp": program.rasp,
        "words": program.words,
        "outputs": outputs,
        "longest": longest,
        "heads": heads,
        "pairs": len(pairs),
        "nodes": nodes,
        "edges": edges,
    }
    files = {
        f"{name}.safetensors": save(weights),
        f"{name}.json": (json.dumps(header, indent=1) + "\n").encode(),
    }
    config = model.model_config
    size = len(files[f"{name}.safetensors"]) / 1e3
    odd = sorted(ends ^ set(nodes)) or "none"
    print(f"{name}: {config.num_layers} layers, {heads} heads, {size:.0f} kB; port - tracr {difference:.1e}")
    print(f"    {len(pairs)} pairs; {len(edges)} of {total} edges, {len(nodes)} of {len(names) - total} nodes true")
    print(f"    largest false {float(false.max()):.1e}, smallest true {float(true.min()):.2g} of the gap")
    print(f"    nodes that differ from the ends of true edges: {odd}")
    print("   ", *edges)
    return files


def main() -> None:
    """Rebuild or check the programs named on the command line (default: all)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(PROGRAMS), help="programs (default: all)")
    parser.add_argument("--check", action="store_true", help="compare with the stored files, write nothing")
    parser.add_argument("--out", type=Path, default=DATA, help="folder to write to or compare with")
    asked = parser.parse_args()
    if PROGRAMS.keys() != ALGORITHMS.keys():
        raise ValueError("every compiled program needs its algorithm in plain Python, and the other way round")
    differ = []
    for name in asked.names:
        for file, content in compiled(name).items():
            if asked.check:
                differ += [file] if (asked.out / file).read_bytes() != content else []
            else:
                asked.out.mkdir(parents=True, exist_ok=True)
                (asked.out / file).write_bytes(content)
    if asked.check:
        print(f"differ from what is stored: {', '.join(differ)}" if differ else "all files are as stored")
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
