"""auto-circuit's side of `edges_peers.py` (written for auto-circuit 1.0.1 on TransformerLens 2).

Its scores are gradients at masks that lead from the clean run (0) to the corrupted one (1), of minus the mean logit
difference: minus our effects. It offers them twice: by one backward pass to all masks, and edge by edge; it calls both
equal. LayerNorms are folded and centred as in its own loader, which changes no score and no output: readers look at
the stream before the norm, and a logit difference does not see what all logits share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from worker import Measures, serve


def set_up(folder: Path, pairs: dict[str, Any]) -> tuple[Any, Any]:
    from auto_circuit.data import PromptDataLoader, PromptDataset
    from auto_circuit.utils.graph_utils import patchable_model
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import GPT2LMHeadModel

    hf = GPT2LMHeadModel.from_pretrained(folder)
    config = HookedTransformerConfig(
        n_layers=hf.config.n_layer, n_heads=hf.config.n_head, d_model=hf.config.n_embd, n_ctx=hf.config.n_positions,
        d_head=hf.config.n_embd // hf.config.n_head, d_mlp=4 * hf.config.n_embd, d_vocab=hf.config.vocab_size,
        act_fn="gelu_new", normalization_type="LN", eps=hf.config.layer_norm_epsilon, device="cpu",
        use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True,
    )  # fmt: skip
    hooked = HookedTransformer(config)
    hooked.load_and_process_state_dict(convert_gpt2_weights(hf, config))
    hooked.eval().requires_grad_(False)
    model = patchable_model(hooked, factorized=True, slice_output="last_seq", separate_qkv=True)
    clean, corrupted = (list(torch.tensor(pairs[side])) for side in ("clean", "corrupted"))
    correct, incorrect = ([torch.tensor([pairs[side]])] * len(clean) for side in ("correct", "incorrect"))
    data = PromptDataset(clean, corrupted, correct, incorrect)
    return model, PromptDataLoader(data, seq_len=None, diverge_idx=0, batch_size=len(clean))


def our_name(edge: Any) -> str:
    """`A9.6->MLP 10` and `Resid Start->A0.0.K` as we write them."""
    source, target = edge.src.name, edge.dest.name
    if source.startswith("A"):
        layer, head = source[1:].split(".")
        source = f"a{layer}.h{head}"
    if target.startswith("A"):
        layer, head, kind = target[1:].split(".")
        target = f"a{layer}.{'h' if kind == 'Q' else 'kv'}{head}<{kind.lower()}>"
    ends = {"Resid Start": "input", "Resid End": "logits"}
    return "->".join(ends.get(end, end.replace("MLP ", "m")) for end in (source, target))


def prepare(folder: Path, pairs: dict[str, Any]) -> Measures:
    from auto_circuit.prune import run_circuits
    from auto_circuit.prune_algos.edge_attribution_patching import edge_attribution_patching_prune_scores
    from auto_circuit.prune_algos.mask_gradient import mask_gradient_prune_scores
    from auto_circuit.types import PatchType

    model, loader = set_up(folder, pairs)
    edges = {our_name(edge): edge for edge in model.edges}
    ranking = model.new_prune_scores()
    for place, name in enumerate(pairs["ranking"]):  # circuits of exactly so many edges: no two are alike
        ranking[edges[name].dest.module_name][edges[name].patch_idx] = len(edges) - place

    def named(scores: Any) -> dict[str, float]:
        model.zero_grad()  # gradients of parameters that the slow way leaves behind
        return {name: -float(scores[edge.dest.module_name][edge.patch_idx]) for name, edge in edges.items()}

    def differences(outputs: Any) -> list[list[float]]:
        found = []
        for _, batches in sorted(outputs.items()):
            [logits] = batches.values()
            found.append((logits[:, pairs["correct"]] - logits[:, pairs["incorrect"]]).tolist())
        return found

    def circuits(counts: list[int]) -> Any:
        return run_circuits(model, loader, counts, ranking, PatchType.TREE_PATCH)

    with torch.no_grad():
        model(torch.tensor(pairs["clean"]))
    return {
        "eap": (lambda: mask_gradient_prune_scores(model, loader, None, "logit", "avg_diff", mask_val=0.0), named),
        "one circuit": (lambda: circuits(pairs["one"]), differences),
        "ten circuits": (lambda: circuits(pairs["ten"]), differences),
        "eap, edge by edge": (lambda: edge_attribution_patching_prune_scores(model, loader, None), named),
    }


if __name__ == "__main__":
    serve(prepare, "auto-circuit", "transformer-lens", "transformers")
