"""Compiled models compute their algorithms, and their stored circuits are what the definition gives."""

from __future__ import annotations

import dataclasses
import json
import random
from functools import cache
from importlib.resources import files
from itertools import groupby

import pytest
import torch
from no_norms import random_compiled

import veracausa as vc
from veracausa.errors import MethodError, PromptError, TaskError
from veracausa.ground_truth import COMPILED, load_compiled, truth

every_program = pytest.mark.parametrize("name", COMPILED)

# Written anew, apart from the library's own.
EXPECTED = {
    "frac_prevs": lambda x: [sum(w == "x" for w in x[: i + 1]) / (i + 1) for i in range(len(x))],
    "sort": lambda x: sorted(x),
    "reverse": lambda x: list(x[::-1]),
    "histogram": lambda x: [x.count(w) for w in x],
    "double_histogram": lambda x: [len({v for v in x if x.count(v) == x.count(w)}) for w in x],
    "sort_by_frequency": lambda x: sorted(x, key=x.count, reverse=True),
    "pair_balance": lambda x: [
        sum({"(": 1, ")": -1}.get(w, 0) for w in x[: i + 1]) / (i + 1) for i in range(len(x))
    ],
    "dyck": lambda x: [_reduced("".join(x)) == ""] * len(x),
}  # fmt: skip


def _reduced(brackets: str) -> str:
    shorter = brackets.replace("()", "")
    return brackets if shorter == brackets else _reduced(shorter)


@cache
def loaded(name: str):
    return load_compiled(name, dtype=torch.float64)


def sample(program, n: int, seed: int = 0):
    """Pairs, shortest first, as `truth.effects` orders them."""
    pairs = random.Random(seed).sample(program.pairs(), min(n, len(program.pairs())))
    return sorted(pairs, key=lambda pair: len(pair.clean))


@every_program
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_are_the_algorithms_on_every_input(name, dtype):
    lm, program = load_compiled(name, dtype=dtype)
    for length, inputs in groupby(program.inputs(), key=len):
        inputs = list(inputs)
        with torch.no_grad():
            logits = lm.hf(torch.tensor([program.tokens(words) for words in inputs])).logits[:, 1:]
        expected = [EXPECTED[name](words) for words in inputs]
        assert logits.shape[:2] == (len(inputs), length)
        if program.outputs is None:
            torch.testing.assert_close(logits[..., 0].double(), torch.tensor(expected).double(), rtol=0, atol=1e-4)
            assert not logits[..., 1].any()
        else:
            assert [[program.outputs[i] for i in row] for row in logits.argmax(-1).tolist()] == expected
            best, second = logits.topk(2, dim=-1).values.unbind(-1)
            assert float((best - second).min()) > 0.9


@every_program
def test_inputs_and_pairs_are_all_there_are(name):
    _, program = loaded(name)
    alphabet, pairs = len(program.words) - 1, program.pairs()
    assert len(program.inputs()) == sum(alphabet**n for n in range(1, program.longest + 1))
    assert len(set(pairs)) == len(pairs)
    for pair in sample(program, 30):
        differ = [a != b for a, b in zip(pair.clean, pair.corrupted, strict=True)]
        assert sum(differ) == 1
        assert EXPECTED[name](pair.clean)[pair.read] != EXPECTED[name](pair.corrupted)[pair.read]
        assert pair._replace(clean=pair.corrupted, corrupted=pair.clean) in pairs


@every_program
def test_reading_last_is_reading_in_place(name):
    """The position that a metric reads is moved to the end: the same logits there as in the natural order."""
    lm, program = loaded(name)
    for pair in sample(program, 10):
        natural, moved = program.tokens(pair.clean), program.tokens(pair.clean, pair.read)
        assert sorted(natural) == sorted(moved)
        with torch.no_grad():
            one, other = lm.hf(torch.tensor([natural])).logits[0], lm.hf(torch.tensor([moved])).logits[0]
        torch.testing.assert_close(one[pair.read + 1], other[-1], rtol=0, atol=1e-12)


@every_program
def test_the_metric_is_the_projected_output(name):
    """Its gap is |y − y′| for a number, and 2 (one logit up, one down) for a word."""
    lm, program = loaded(name)
    pairs = sample(program, 20, seed=1)
    gap = lm.measure(program.task_of(pairs)).gap
    if program.outputs is None:
        outputs = [[EXPECTED[name](words)[pair.read] for words in pair[:2]] for pair in pairs]
        expected = torch.tensor([abs(a - b) for a, b in outputs], dtype=torch.float64)
    else:
        expected = torch.full((len(pairs),), 2.0, dtype=torch.float64)
    torch.testing.assert_close(gap, expected, rtol=0, atol=1e-3)


@every_program
def test_the_naive_run_is_the_model(name):
    lm, program = loaded(name)
    ids = torch.tensor([program.tokens(program.inputs()[-1])])
    with torch.no_grad():
        torch.testing.assert_close(truth.run(lm.hf, ids)[0], lm.hf(ids).logits, rtol=0, atol=1e-12)


@pytest.mark.cases(1)
@every_program
def test_stored_truth_is_what_the_definition_gives(name):
    """On a sample: no false part has an effect, and every true one has an effect somewhere; nothing lies between."""
    lm, program = loaded(name)
    names, shares = truth.effects(lm.hf, program, sample(program, 400))
    nodes, edges = truth.true_parts(names, shares)
    assert set(nodes) == program.nodes
    assert set(edges) == program.edges
    largest = shares.abs().amax(0)
    assert float(largest[largest <= truth.THRESHOLD].max()) < 1e-9
    assert float(largest[largest > truth.THRESHOLD].min()) > 0.1


@every_program
def test_nodes_are_the_ends_of_edges(name):
    """No program hides a node whose edges cancel, and no edge hangs in the air."""
    _, program = loaded(name)
    ends = {end.split("<")[0].replace("kv", "h") for edge in program.edges for end in edge.split("->")}
    assert ends - {"input", "logits"} == program.nodes
    writers, readers = ({edge.split("->")[side].split("<")[0].replace("kv", "h") for edge in program.edges}
                        for side in (0, 1))  # fmt: skip
    assert writers - {"input"} == readers - {"logits"}


@pytest.mark.cases(2)
@every_program
def test_the_engine_agrees_with_the_definition(name):
    """`vc.exact` on edges, heads and MLPs, against whole runs written out."""
    lm, program = loaded(name)
    pairs = sample(program, 8, seed=2)
    task = program.task_of(pairs)
    names, shares = truth.effects(lm.hf, program, pairs)
    expected = shares * lm.measure(task).gap[:, None]
    for units in ("edges", "heads", "mlps"):
        ours = vc.exact(lm, task, units=units, show_progress=False)
        theirs = expected[:, [names.index(unit) for unit in ours.units.names]]
        torch.testing.assert_close(ours.values, theirs, rtol=0, atol=1e-9)


def test_true_edges_are_those_that_the_program_needs():
    """Reverse moves words: which word stands where depends on values alone. Sort also compares them."""
    assert loaded("reverse")[1].edges == {"input->a3.kv0<v>", "a3.h0->logits"}
    assert loaded("histogram")[1].edges == {"input->a0.h0<q>", "input->a0.kv0<k>", "a0.h0->m0", "m0->logits"}
    assert {"input->a2.kv0<v>", "m1->a2.kv0<k>"} < loaded("sort")[1].edges


@pytest.mark.cases(1)
@pytest.mark.parametrize("name", ["sort", "pair_balance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_contracts(name, dtype):
    lm, _ = load_compiled(name, dtype=dtype)
    assert all(check.ok for check in lm.check())


@pytest.fixture
def mixed() -> vc.Task:
    """Pairs that differ late, with a long prefix in common: sharing it would be wrong here."""
    return vc.Task(
        "late", ((1, 2, 3, 4, 5), (6, 7, 8, 9)), ((1, 2, 3, 4, 15), (6, 7, 18, 9)), ((0,), (1,)), ((2,), (3,))
    )


@pytest.mark.parametrize("units", ["heads@positions", "neurons@positions", "mlps@positions", "residual@positions"])
def test_positions_before_the_first_difference_see_it(mixed, units):
    """Attention looks both ways, so nothing is shared, and a unit at an early position has an effect."""
    lm = random_compiled()
    scores = vc.exact(lm, mixed, units=units, show_progress=False)
    early = (scores.units.position == 0) & (scores.units.layer == 0)
    if units == "heads@positions":
        assert float(scores.values[0, torch.as_tensor(early)].abs().max()) > 1e-6
    for unit in range(0, len(scores.units), 7):
        layer, index, position = (int(column[unit]) for column in
                                  (scores.units.layer, scores.units.index, scores.units.position))  # fmt: skip
        for example in range(2):
            if position < mixed.lengths[example]:
                theirs = _patched(lm, mixed, example, units.split("@")[0], layer, index, position)
                assert float(scores.values[example, unit]) == pytest.approx(theirs, abs=1e-9)


def _patched(lm, task, example, kind, layer, index, position) -> float:
    """One whole run with one plain hook."""
    hf, blocks = lm.hf, lm.hf.model.layers
    norms = [*(block.input_layernorm for block in blocks), hf.model.norm]
    module, size = {
        "heads": lambda: (blocks[layer].self_attn.o_proj, hf.config.head_dim),
        "neurons": lambda: (blocks[layer].mlp.down_proj, 1),
        "mlps": lambda: (blocks[layer].mlp, hf.config.hidden_size),
        "residual": lambda: (blocks[layer] if layer < len(blocks) else norms[layer], hf.config.hidden_size),
    }[kind]()
    part = slice(max(index, 0) * size, (max(index, 0) + 1) * size)
    seen = {}

    def metric(ids, new=None):
        def replaced(value):
            seen["value"] = value
            if new is None:
                return value
            value = value.clone()
            value[:, position, part] = new[:, position, part]
            return value

        if kind == "mlps":
            handle = module.register_forward_hook(lambda _, __, output: replaced(output))
        else:
            handle = module.register_forward_pre_hook(lambda _, args: (replaced(args[0]), *args[1:]))
        with torch.no_grad():
            logits = hf(torch.tensor([ids])).logits[0, -1]
        handle.remove()
        return float(logits[task.correct[example][0]] - logits[task.incorrect[example][0]])

    metric(task.corrupted[example])
    other, clean = seen["value"], task.clean[example]
    return metric(clean, other) - metric(clean)


@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells"])
def test_patterns_see_both_ways(mixed, units):
    """Cells of keys behind their query, too; beyond the end of a prompt there is none, exact or estimated."""
    lm = random_compiled()
    scores = vc.exact(lm, mixed, units=units, show_progress=False)
    estimate = vc.attribute(lm, mixed, units=units, show_progress=False)
    table, none = scores.units, [None] * len(scores)
    queries = table.position.tolist() if table.positional else none
    cells = list(zip(queries, none if table.cells is None else table.cells.tolist(), strict=True))
    for example, length in enumerate(mixed.lengths):
        own, other = (_patterns(lm, ids[example]) for ids in (mixed.clean, mixed.corrupted))
        bare = _mixed_by(lm, mixed, example, {})
        for unit, (query, key) in enumerate(cells):
            layer, head = int(scores.units.layer[unit]), int(scores.units.index[unit])
            if max(query or 0, key or 0) >= length:
                assert scores.values[example, unit].isnan() and estimate.values[example, unit].isnan()
            elif unit % 5 == 0:
                new = own[layer].clone()
                where = (head, *(slice(None) if one is None else one for one in (query, key)))
                new[where] = other[layer][where]
                theirs = _mixed_by(lm, mixed, example, {layer: new}) - bare
                assert float(scores.values[example, unit]) == pytest.approx(theirs, abs=1e-9)
    if units != "patterns":
        whole = vc.attribute(lm, mixed, units="patterns", show_progress=False)
        parts = estimate.values.nan_to_num().unflatten(1, (len(whole), -1)).sum(2)
        torch.testing.assert_close(parts, whole.values, rtol=0, atol=1e-9)
        assert vc.exact(lm, mixed, units="a0.h1<pattern>@0-1,2-3", show_progress=False).values.abs().max() > 1e-6


def _patterns(lm, ids) -> dict[int, torch.Tensor]:
    """Every layer's weights [heads, n, n], as the module gives them."""
    found = {}
    handles = [
        block.self_attn.register_forward_hook(lambda _, __, out, layer=layer: found.update({layer: out[1][0]}))
        for layer, block in enumerate(lm.hf.model.layers)
    ]
    _run(lm, ids)
    for handle in handles:
        handle.remove()
    return found


def _mixed_by(lm, task, example, patterns) -> float:
    """The metric of a run whose layers mix their values by other weights, written out from the module's projections."""
    handles = []
    for layer, weights in patterns.items():
        block = lm.hf.model.layers[layer]

        def write(module, args, kwargs, out, weights=weights):
            hidden = args[0] if args else kwargs["hidden_states"]
            values = module.v_proj(hidden).unflatten(-1, (len(weights), -1)).transpose(1, 2)
            return (module.o_proj((weights @ values).transpose(1, 2).flatten(2)), *out[1:])

        handles.append(block.self_attn.register_forward_hook(write, with_kwargs=True))
    logits = _run(lm, task.clean[example])
    for handle in handles:
        handle.remove()
    return float(logits[task.correct[example][0]] - logits[task.incorrect[example][0]])


@torch.no_grad()
def _run(lm, ids) -> torch.Tensor:
    """Logits at the last position, by the family's own eager attention."""
    before, lm.hf.config._attn_implementation = lm.hf.config._attn_implementation, "eager"
    try:
        return lm.hf(torch.tensor([ids])).logits[0, -1]
    finally:
        lm.hf.config._attn_implementation = before


@torch.no_grad()
def test_edges_at_one_position(mixed):
    """A reader sees the change at one position, early ones included; against whole runs written out."""
    lm = random_compiled()
    names = [f"{edge}@{position}" for edge in ("input->a0.kv1<k>", "a0.h0->a1.h1<q>", "a0.h1->m0", "m0->a1.kv0<v>")
             for position in range(4)]  # fmt: skip
    ours = vc.exact(lm, mixed, units=names, show_progress=False)
    for example in range(2):
        clean, corrupted = torch.tensor([mixed.clean[example]]), torch.tensor([mixed.corrupted[example]])
        (bare, writes), (_, others) = truth.run(lm.hf, clean), truth.run(lm.hf, corrupted)
        for unit, name in enumerate(ours.units.names):
            edge, position = name.split("@")
            writer, reader = edge.split("->")
            change = torch.zeros_like(writes[writer])
            change[:, int(position)] = (others[writer] - writes[writer])[:, int(position)]
            patched = truth.run(lm.hf, clean, [reader], change)[0] - bare
            theirs = patched[0, -1, mixed.correct[example][0]] - patched[0, -1, mixed.incorrect[example][0]]
            assert float(ours.values[example, unit]) == pytest.approx(float(theirs), abs=1e-9)
    assert float(ours.values[0].abs().min()) < 1e-9 < float(ours.values[0].abs().max())


def test_contracts_hold_with_random_weights(mixed):
    assert all(check.ok for check in dataclasses.replace(random_compiled(), probe=mixed).check())


@pytest.mark.parametrize("method", ["atp", "ig", "eap-ig", "relp", "gim"])
def test_estimates_run_both_ways(mixed, method):
    """Padding-free, prefix-free: the pair alone gives what it gives beside another of its length."""
    lm = random_compiled()
    both = vc.attribute(lm, mixed, units="heads", method=method, show_progress=False).values
    assert torch.isfinite(both).all() and float(both[0].abs().max()) > 1e-4


@every_program
def test_files_are_small_and_plain(name):
    folder = files("veracausa.ground_truth") / "data"
    assert len((folder / f"{name}.safetensors").read_bytes()) < 300_000
    header = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    assert header["pairs"] == len(loaded(name)[1].pairs())
    assert header["rasp"].startswith(f"def {name}():")


def test_what_cannot_be_is_said():
    _, program = loaded("sort")
    with pytest.raises(MethodError, match="no compiled program 'srot'"):
        load_compiled("srot")
    with pytest.raises(PromptError, match="1 to 4 words"):
        program.tokens((1, 2, 3, 4, 1))
    with pytest.raises(PromptError, match="but not 9"):
        program.tokens((1, 9))
    with pytest.raises(TaskError, match="cannot be drawn"):
        program.task(10**6)
    assert len(program.task(5)) == 5 and program.task(5).digest() == program.task(5).digest()
