"""The published circuits of GPT-2 small: counts and edges as stated."""

import re

import pytest

from veracausa.anatomy.graph import Graph
from veracausa.circuits.circuit import Circuit
from veracausa.circuits.known import GREATER_THAN, IOI_HEADS, published
from veracausa.errors import CircuitError, MethodError

GPT2 = Graph(12, 12, 12)


@pytest.fixture(params=["ioi-gpt2", "greater-than-gpt2"])
def circuit(request) -> Circuit:
    return published(request.param)


def test_on_gpt2s_graph_without_dead_ends(circuit):
    assert circuit.graph == GPT2 and circuit.graph.size == 32_491
    assert [GPT2.parse(name) for name in circuit.names] == list(
        zip(circuit.edges.writer.tolist(), circuit.edges.reader.tolist(), strict=True)
    )
    assert circuit.prune() is circuit


def test_ioi_heads():
    circuit = published("ioi-gpt2")
    heads = [name for name in circuit.nodes if name.startswith("a")]
    assert len(heads) == 26 and set(heads) == {head for group in IOI_HEADS.values() for head in group}
    assert [len(group) for group in IOI_HEADS.values()] == [3, 8, 2, 4, 4, 3, 2]
    assert len(circuit.nodes) == 28 and not any(name.startswith("m") for name in circuit.nodes)
    # 5·3 + 2·4·2 + 7·4·2 + 4 + 4·13 + 13·2 + 13
    assert len(circuit) == 182


@pytest.mark.parametrize(
    ("writers", "readers", "inputs"),
    [
        (None, ["previous token", "duplicate token"], "qkv"),
        (["previous token"], ["induction"], "kv"),
        (["induction", "duplicate token"], ["S-inhibition"], "kv"),
        (None, ["S-inhibition"], "q"),
        (["S-inhibition"], ["name movers", "negative name movers", "backup name movers"], "q"),
        (None, ["name movers", "negative name movers", "backup name movers"], "kv"),
    ],
)
def test_ioi_edges(writers, readers, inputs):
    """Exactly these inputs, for every pair of heads of the groups."""
    names = published("ioi-gpt2").names
    starts = ["input"] if writers is None else [head for group in writers for head in IOI_HEADS[group]]
    for start in starts:
        for head in [head for group in readers for head in IOI_HEADS[group]]:
            layer, index = re.findall(r"\d+", head)
            found = {name[-2] for name in names if re.fullmatch(rf"{start}->a{layer}\.(h|kv){index}<.>", name)}
            assert found == set(inputs), (start, head)


def test_greater_than():
    circuit = published("greater-than-gpt2")
    heads = {name for name in circuit.nodes if name.startswith("a")}
    mlps = {name for name in circuit.nodes if name.startswith("m")}
    assert heads == {"a0.h1", "a0.h3", "a0.h5", "a5.h5", "a6.h1", "a6.h9", "a7.h10", "a8.h11", "a9.h1"}
    assert mlps == {f"m{layer}" for layer in (0, 1, 2, 3, 8, 9, 10, 11)}
    names = set(circuit.names)
    assert {"a0.h1->m0", "a0.h3->a9.h1<q>", "m3->a5.kv5<v>", "a8.h11->m8", "a9.h1->logits", "m8->m11"} <= names
    assert not {"a9.h1->m8", "a0.h3->m0", "m3->m8", "m3->logits", "a0.h1->logits", "input->m8"} & names
    # input 3·3 + 4; a0.h1 4; into middle heads 7·6·3; early 6, late 6; middle → late 6·4 − 1; logits 6 + 4
    assert len(circuit) == 13 + 4 + 126 + 12 + 23 + 10
    assert circuit.settings["groups"] == {name: list(group) for name, group in GREATER_THAN.items()}


def test_for_any_model_of_this_graph(circuit, tiny):
    with pytest.raises(CircuitError, match="layers=12"):
        circuit.require_for(tiny("gpt2"))
    assert circuit.require_for(tiny("gpt2", n_layer=12, n_head=12, n_embd=24)) is circuit
    assert "published" in circuit.describe()


def test_another_name_is_said():
    with pytest.raises(MethodError, match=r"name='ioi' is not known\. Did you mean 'ioi-gpt2'\?"):
        published("ioi")
