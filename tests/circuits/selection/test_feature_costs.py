"""Circuits and edges of features: what they cost is told before, memory is kept to, and a killed call goes on."""

import pytest
import torch
from laid_features import asked, dictionary, task_of
from live import LiveBytes
from tiny_models import VOCAB, pairs

import veracausa as vc
from veracausa.errors import FileError, MethodError, OutOfMemoryError
from veracausa.estimates.path_slopes import PathSlopes

QUIET = {"show_progress": False}
EDGES = ["f1.low.3->...->f2.5", "f1.low.error->f2.error", "m0->f2.3", "f1.low.3->f2.5->m2->logits", "f1.low.1->logits"]


@pytest.fixture(scope="module")
def laid():
    _, lm, found, _ = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", "relu", name="low")[0], dictionary(lm.width, "r2", "relu", seed=6)[0])
    return lm, task_of([*found, *pairs(VOCAB, 2, 8, 4)])


@pytest.mark.cases(1)
@pytest.mark.parametrize("method", ["atp", "ig"])
@pytest.mark.slow
def test_forecasts_are_what_calls_cost(laid, method):
    lm, task = laid
    edges = EDGES if method == "atp" else EDGES[:3]
    price = vc.forecast(vc.estimates.feature_edges, lm, task, measure=False, units=edges, method=method, nodes=3)
    scores = vc.estimates.feature_edges(lm, task, edges, method=method, nodes=3, **QUIET)
    assert price.token_layers == scores.cost.token_layers
    how = {"method": method, "nodes": 3, "node_threshold": 0.0, "edge_threshold": 0.0, "most": 6}
    price = vc.forecast(vc.circuits.feature_circuit, lm, task, measure=False, **how)
    circuit = vc.circuits.feature_circuit(lm, task, **how, **QUIET)
    assert len(circuit.parts) == 6 and "no more were asked for" in circuit.sentences[0]
    # at most: of six nodes those of the first site have nothing before them, and no backward pass of their own
    assert price.token_layers < circuit.cost.token_layers <= price.most < 2 * circuit.cost.token_layers
    run = vc.forecast(vc.circuits.feature_circuit, lm, task, measure=False, upstream="run", **how)
    spent = vc.circuits.feature_circuit(lm, task, upstream="run", **how, **QUIET).cost.token_layers
    assert run.token_layers == price.token_layers < spent <= run.most
    with pytest.raises(MethodError, match="one node at most"):
        vc.circuits.feature_circuit(lm, task, most=0, **QUIET)


def test_the_strongest_are_nodes_where_there_may_be_few(laid):
    lm, task = laid
    how = {"method": "atp", "node_threshold": 0.0, "edge_threshold": 0.0, **QUIET}
    few, every = (vc.circuits.feature_circuit(lm, task, most=most, **how) for most in (5, None))
    assert few.parts == every.parts[:5]
    ends = [*zip(every.upstream, every.downstream, strict=True)]
    for i, edge in enumerate(zip(few.upstream, few.downstream, strict=True)):
        torch.testing.assert_close(few.values[:, i], every.values[:, ends.index(edge)], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_a_killed_call_goes_on(laid, tmp_path, monkeypatch):
    """Killed after some slopes: the second call takes the others alone, and gives what an undisturbed one gives."""
    lm, task = laid
    calls = (
        lambda **more: vc.estimates.feature_edges(lm, task, EDGES, **more, **QUIET),
        lambda **more: vc.circuits.feature_circuit(lm, task, node_threshold=0.3, nodes=2, **more, **QUIET),
    )
    taken = PathSlopes._gradients
    for number, call in enumerate(calls):
        whole, left = call(), [3]

        def dying(*args, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return taken(*args)

        folder = tmp_path / str(number)
        with monkeypatch.context() as patched:
            patched.setattr(PathSlopes, "_gradients", dying)
            with pytest.raises(KeyboardInterrupt):
                call(out=folder)
            left[0] = 1000
            again = call(out=folder)
            used = 1000 - left[0]
            left[0] = 1000
            call()
        assert used < 1000 - left[0]
        torch.testing.assert_close(again.values, whole.values, rtol=0, atol=1e-12, equal_nan=True)
        kept = call(out=folder)
        torch.testing.assert_close(kept.values, whole.values, rtol=0, atol=1e-12, equal_nan=True)
    damaged = next(folder.glob("feature-circuit-features-*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(FileError):
        calls[1](out=folder)


@pytest.mark.cases(1)
@pytest.mark.parametrize("what", ["edges", "circuit", "runs"])
@pytest.mark.slow
def test_memory_is_told_and_kept_to(tiny, what):
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "head_dim": 16}
    lm = tiny("llama", dtype=torch.float32, **sizes, num_attention_heads=4, num_key_value_heads=2)
    lm = lm.reading(dictionary(64, "r1", "relu", name="low")[0], dictionary(64, "r3", "relu", seed=6)[0])
    alike = pairs(len(lm.decoder.unembedding.weight), 1, 40, 3)[0]
    others = [alike._replace(corrupted=[*alike.clean[:1], token, *alike.clean[2:]]) for token in range(30, 38)]
    task = task_of(others)  # all differ at one token, so that they can be recorded together
    verb, how = {
        "edges": (vc.estimates.feature_edges, {"units": ["f1.low.3->...->f3.5", "f1.low.error->f3.error"]}),
        "runs": (
            vc.estimates.feature_edges,
            {"units": ["f1.low.3->...->f3.5", "f1.low.error->f3.error", "f1.low.error->...->m2"], "upstream": "run"},
        ),
        "circuit": (vc.circuits.feature_circuit, {"method": "ig", "nodes": 3, "most": 4, "node_threshold": 0.0}),
    }[what]
    whole = verb(lm, task, **how, **QUIET)
    plenty = vc.forecast(verb, lm, task, measure=False, memory=10**12, **how).memory.beside
    for memory in (10**12, plenty // 6):
        with LiveBytes() as live:
            found = verb(lm, task, **how, memory=memory, **QUIET)
        said = vc.forecast(verb, lm, task, measure=False, memory=memory, **how).memory
        assert live.peak < memory and said.beside == pytest.approx(live.peak, rel=0.2)
        torch.testing.assert_close(found.values, whole.values, rtol=1e-3, atol=1e-5)  # float32
    with pytest.raises(OutOfMemoryError, match="one pair"):
        verb(lm, task, **how, memory=plenty // 50, **QUIET)
