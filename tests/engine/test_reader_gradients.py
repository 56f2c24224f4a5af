"""Gradients at readers' inputs against autograd through the norm's and the projection's own modules, row by row."""

import pytest
import torch

from veracausa.anatomy.graph import of_projection
from veracausa.engine.guard import borrowed
from veracausa.engine.measure import pair_ids
from veracausa.engine.reader_gradients import SITES, Reads
from veracausa.engine.recording import record_pairs
from veracausa.engine.row_sums import RowSums

_OUTPUTS = ("q_out", "k_out", "v_out")


def naive(lm, state, gradient):
    """{(layer, kind, head): g of every row} by autograd; `gradient`: ĝ at every site's output."""
    found = {}
    for layer, block in enumerate(lm.decoder.blocks):
        seen = state.residual[layer].detach().requires_grad_()
        normed = block.attention_norm(seen)
        for kind, count in lm.graph.attention_readers(layer).items():
            one = of_projection(kind)
            outputs = block.layout.projected(one, block.projections[one](normed), count, block.head_dim)
            own = block.layout.projected(one, gradient[_OUTPUTS[one], layer], count, block.head_dim)
            for head in range(count):
                product = (outputs[..., head, :] * own[..., head, :]).sum()
                found[layer, kind, head] = torch.autograd.grad(product, seen, retain_graph=True)[0]
    return found


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "falcon"])
def test_gradients_and_their_sums_over_rows(tiny, task_of, family):
    lm, task = tiny(family), task_of(5, n=4)
    with borrowed(lm.decoder):
        examples = tuple(range(4))
        tape = record_pairs(lm.decoder, *pair_ids(lm, task, examples), 0, examples=examples, sites=SITES, grad="clean")
        state, reads = tape.clean, Reads(lm.decoder, frozen=False)
        wanted, drawn = reads.wanted(state), torch.Generator().manual_seed(0)
        given = [torch.randn(one.shape, generator=drawn, dtype=one.dtype) for one in wanted]
        per_block = (len(wanted) - 1) // lm.layers  # queries, keys, values, what the MLP is given
        gradient = {
            (site, layer): given[layer * per_block + i] for layer in range(lm.layers) for i, site in enumerate(_OUTPUTS)
        }
        truth = naive(lm, state, gradient)
        weights = torch.tensor([0.5, -1.5, 2.0, 0.25], dtype=torch.float64)
        ways = {  # which rows go to which place: each to its own, unevenly together, all to one
            "apart": RowSums.apart(4, torch.device("cpu")),
            "uneven": RowSums(torch.tensor([0, 0, 0, 1]), weights, 2),
            "one": RowSums(torch.zeros(4, dtype=torch.long), weights, 1),
        }
        with torch.no_grad():
            for sums in ways.values():
                matrix = torch.zeros(sums.count, 4, dtype=torch.float64)
                matrix[sums.into, torch.arange(4)] = sums.weights.double()
                groups = dict(reads.gradients(state, given, sums=sums))
                for layer in range(lm.layers):
                    ours = iter(groups[lm.graph.block(layer).attention.start])
                    for kind, count in lm.graph.attention_readers(layer).items():
                        for head in range(count):
                            own = torch.einsum("pr,rsw->psw", matrix, truth[layer, kind, head])
                            # float64 sums of a few dozen products, which are of order 1
                            torch.testing.assert_close(next(ours), own, rtol=1e-9, atol=1e-9)


def test_sums_of_the_first_rows_are_those_of_their_places():
    sums = RowSums(torch.tensor([0, 0, 1, 2]), torch.ones(4), 3)
    assert sums.of_first(2).count == 1 and sums.of_first(3).count == 2 and sums.of_first(4) is sums
    assert sums.beside(torch.arange(4.0)[:, None]).flatten(1).tolist() == [[0, 1], [2, 0], [3, 0]]
