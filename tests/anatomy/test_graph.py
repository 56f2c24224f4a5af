"""The graph of writers and readers: sizes that are published, order by hand, names."""

import numpy as np
import pytest

from veracausa.anatomy.graph import Graph
from veracausa.circuits.wiring import heads_of, readers_of
from veracausa.errors import UnitError
from veracausa.scores.files import unpack_graph


@pytest.mark.parametrize(
    ("sizes", "edges"),
    [((12, 12, 12), 32_491), ((30, 9, 3), 70_651)],  # GPT-2 small and SmolLM2-135M (METHODS 11)
)
def test_published_sizes(sizes, edges):
    graph = Graph(*sizes)
    assert graph.size == edges == len(set(zip(*map(np.ndarray.tolist, graph.edges), strict=True)))


def naive_edges(layers, heads, kv_heads, parallel):
    """Walk the stream block by block."""
    seen, edges = ["input"], set()
    for layer in range(layers):
        attention = [f"a{layer}.h{h}<q>" for h in range(heads)]
        attention += [f"a{layer}.kv{g}<{kind}>" for kind in "kv" for g in range(kv_heads)]
        written = [f"a{layer}.h{h}" for h in range(heads)]
        edges |= {f"{writer}->{reader}" for writer in seen for reader in attention}
        if not parallel:
            seen = seen + written
        edges |= {f"{writer}->m{layer}" for writer in seen}
        seen = [*seen, *(written if parallel else []), f"m{layer}"]
    return edges | {f"{writer}->logits" for writer in seen}


@pytest.mark.parametrize("parallel", [False, True])
def test_edges_by_walking_the_stream(parallel):
    graph = Graph(3, 4, 2, parallel)
    names = [f"{graph.writer_names[w]}->{graph.reader_names[r]}" for w, r in zip(*graph.edges, strict=True)]
    assert set(names) == naive_edges(3, 4, 2, parallel) and len(names) == graph.size
    assert [graph.parse(name) for name in names] == list(zip(*map(np.ndarray.tolist, graph.edges), strict=True))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a0.h0", ["a9.h6->m10"]),
        ("a0.h0->a0.h1<q>", ["cannot exist", "a0.h0"]),
        ("m1->m1", ["cannot exist"]),
        ("a0.h0->a1.h2<k>", ["a1.h2<k>", "key/value head"]),
        ("a9.h0->logits", ["a9.h0", "0 … 2"]),
        ("a0.h7->logits", ["a0.h7", "4 heads"]),
        ("logits->m1", ["logits", "no writer"]),
        ("wheel->m1", ["wheel", "input"]),
        ("input->m1@3x", ["m1@3x"]),
    ],
)
def test_names_that_are_wrong(name, words):
    with pytest.raises(UnitError) as caught:
        Graph(3, 4, 2).parse(name)
    assert all(word in str(caught.value) for word in words), caught.value


def test_in_a_parallel_block_the_mlp_does_not_see_the_heads():
    assert Graph(2, 2, 2).parse("a0.h0->m0")
    with pytest.raises(UnitError, match="cannot exist"):
        Graph(2, 2, 2, parallel=True).parse("a0.h0->m0")


@pytest.mark.parametrize(
    ("joint", "readers", "word"),
    [
        (("q", "k"), ["a1<q>", "a1<k>", "a1.kv0<v>", "a1.kv1<v>"], "keys of all heads"),
        (("kv",), ["a1.h0<q>", "a1.h1<q>", "a1.h2<q>", "a1.h3<q>", "a1<kv>"], "keys and values of all heads"),
        (("q", "kv"), ["a1<q>", "a1<kv>"], "queries of all heads"),
    ],
)
def test_readers_that_heads_share(joint, readers, word):
    graph, usual = Graph(3, 4, 2, joint=joint), Graph(3, 4, 2)
    assert [name for name in graph.reader_names if name.startswith("a1")] == readers
    names = [f"{graph.writer_names[w]}->{graph.reader_names[r]}" for w, r in zip(*graph.edges, strict=True)]
    assert [graph.parse(name) for name in names] == list(zip(*map(np.ndarray.tolist, graph.edges), strict=True))
    shares = {name: heads_of(graph, r) for r, name in enumerate(graph.reader_names) if name in readers}
    heads = [graph.writer_names.index(f"a1.h{h}") for h in range(4)]
    assert shares[readers[-1] if "kv" in joint else "a1<k>"] == heads
    for head in heads:
        assert [graph.reader_names[r] for r in readers_of(graph, head)] == [r for r in readers if head in shares[r]]
    with pytest.raises(UnitError, match=word):
        graph.parse("a0.h0->a1.kv0<k>")
    assert unpack_graph(graph.header) == graph and graph.sizes != usual.sizes
    assert "joint" not in usual.header and len(usual.sizes) == 4  # as files and hashes had them before
    for wrong in (["k", "q"], ["k", "kv"], [], ["v"]):
        with pytest.raises(ValueError, match=r"joint|share"):
            unpack_graph(graph.header | {"joint": wrong})
