"""Iterated selection: its first round is one-shot EAP; its later ones are scored where the circuit stands."""

import numpy as np
import pytest
import torch

import veracausa as vc
from veracausa.circuits.selection.balancing import BEGIN, TRIES, balanced
from veracausa.circuits.selection.iterated import iterate
from veracausa.errors import MethodError, UnitError
from veracausa.units.every_unit import all_edges


def run(lm, task, **options):
    return iterate(lm, task, show_progress=False, **({"rounds": 15, "points": 1, "by": "importance"} | options))


def test_one_round_ranks_by_the_circuit_behind_it(tiny, task_of):
    """What is dropped in the first round is what EAP ranks last, in its order."""
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    eap = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    scores = run(lm, task, rounds=1, smallest=0.3)
    kept = round(0.3 * len(eap))
    assert scores.ranking()[kept:] == eap.ranking("importance")[kept:]
    assert set(scores.ranking()[:kept]) == set(eap.ranking("importance")[:kept])


@pytest.mark.parametrize("by", ["importance", "abs_mean", "balanced"])
def test_values_are_ranks(tiny, task_of, by):
    lm, task = tiny("gemma2"), task_of((5, 6), n=2)
    scores = run(lm, task, rounds=4, by=by, points=2)
    n = len(scores)
    assert n == lm.graph.size and sorted(scores.values[0].tolist()) == pytest.approx([(i + 0.5) / n for i in range(n)])
    assert not scores.signed and scores.settings["per_example"] is False
    assert torch.equal(scores.values[0], scores.values[1])
    assert "ranks" in repr(scores)


def test_every_drop_is_by_the_scores_of_the_circuit_at_hand(tiny, task_of):
    """Of the edges of the second round's circuit, those that stay are worth more than those that go."""
    lm, task = tiny("llama"), task_of(6, n=1)
    scores = run(lm, task, rounds=2, smallest=0.2)
    ranking, n = scores.ranking(), lm.graph.size
    sizes = np.geomspace(round(0.2 * n), n, 3).round().astype(int)
    from veracausa.circuits.runs.run_circuits import run_circuits

    middle = np.array(ranking[: sizes[1]])
    kept = [middle, *(np.delete(middle, i) for i in range(len(middle)))]
    masks = [scores.units[one].mask for one in kept]
    metric = run_circuits(lm, task, masks, show_progress=False).metric[:, 0].numpy()
    worth = metric[0] - metric[1:]  # of each edge, there
    stays = np.arange(len(middle)) < sizes[0]
    assert worth[stays].mean() > worth[~stays].mean()  # gradients are no exact effects, but know which side is which


def test_the_curve_takes_it(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    curve = vc.curve(lm, task, run(lm, task, rounds=5, smallest=0.05), sizes=(0.05, 0.3, 1.0), show_progress=False)
    assert curve.signed[-1].f == pytest.approx(1, abs=1e-9) and curve.method == "iterated"
    assert [one.f for one in curve.signed] == pytest.approx([one.f for one in curve.absolute])


def by_hand(lm, task, sizes, returns, settle=0):
    """Circuits of every size, by names: in each, ∂M/∂m of every edge by central differences of whole soft runs.

    Sizes must be large enough that no dead edge is in question: those score 0 up to rounding, and ties are anyone's.
    """
    from veracausa.circuits.runs.recorded import record
    from veracausa.cost import Cost
    from veracausa.engine.attention import SUFFIX
    from veracausa.engine.guard import attention_function, borrowed

    edges = all_edges(lm)
    names, kept, circuits, returned, settled = np.array(edges.names), set(range(len(edges))), [], 0, []
    with torch.no_grad(), borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        groups = record(lm, task, Cost()).groups

        def metric(weights):
            mask = torch.zeros(lm.graph.readers, lm.graph.writers, dtype=torch.float64)
            mask[edges.reader, edges.writer] = torch.as_tensor(weights)
            runs = ((group, slice(0, len(group))) for group in groups)
            return sum(float(group.metric(group.soft.run(mask, rows), rows).sum()) for group, rows in runs)

        for number, size in enumerate([*sizes, *[sizes[-1]] * settle]):
            here = np.isin(np.arange(len(edges)), list(kept)).astype(float)
            among = range(len(edges)) if returns or number >= len(sizes) else kept
            slope = {}
            for edge in among:
                step = np.zeros(len(edges))
                step[edge] = 1e-5
                slope[edge] = metric(here + step) - metric(here - step)
            if number >= len(sizes):
                settled.append(slope)
                means = {edge: sum(one[edge] for one in settled) / len(settled) for edge in among}
                slope = {edge: mean * (1.2 if edge in kept else 1) for edge, mean in means.items()}
            chosen = set(sorted(among, key=lambda edge: -abs(slope[edge]) if settle else -slope[edge])[:size])
            returned += len(chosen - kept)
            kept = chosen
            circuits.append(set(names[sorted(kept)]))
    return circuits, returned


@pytest.mark.cases(1)
@pytest.mark.parametrize(("returns", "settle"), [(False, 0), (True, 0), (False, 2)])
def test_circuits_and_returns_by_hand(tiny, task_of, returns, settle):
    small = {"num_attention_heads": 2, "hidden_size": 16, "num_hidden_layers": 2}
    lm, task = tiny("llama", **small), task_of((5, 6), n=2, seed=4)
    n, rounds, last = lm.graph.size, 4, 34  # at 28 edges dead ones are in question
    scores = run(lm, task, rounds=rounds, smallest=last, returns=returns, settle=settle,
                 by="abs_mean" if settle else "importance")  # fmt: skip
    sizes = np.geomspace(last, n, rounds + 1).round().astype(int)[::-1][1:]
    theirs, returned = by_hand(lm, task, sizes, returns, settle)
    names, ranking = np.array(scores.units.names), scores.ranking()
    assert set(names[ranking[:last]]) == theirs[-1]
    if settle:
        assert theirs[-1] != theirs[-2] and f"edges that returned: {returned}" in " ".join(scores.notes)
    elif returns:
        assert returned > 0 and f"edges that returned: {returned}" in " ".join(scores.notes)
        behind = theirs[-2] - theirs[-1]  # what the last round dropped comes next
        assert set(names[ranking[last : last + len(behind)]]) == behind
    else:
        for size, circuit in zip(sizes, theirs, strict=True):
            assert set(names[ranking[:size]]) == circuit


def test_a_balanced_round_keeps_what_has_f_nearest_to_1(tiny, task_of):
    """Against EAP's importances and circuits run by themselves: which weights were tried, and what the best keeps."""
    lm, task = tiny("llama"), task_of((5, 6), n=3)
    eap = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    own, n = eap.importance().double().numpy(), round(0.6 * len(eap))
    tried = {}

    def kept(weight):
        order = sorted(range(len(own)), key=lambda edge: -abs(own[edge]) * (1 + weight * np.sign(own[edge])))
        return [eap.units.names[edge] for edge in order[:n]]

    def f_of(weight):
        circuit = vc.Circuit.from_names(lm, kept(weight))
        tried[weight] = vc.faithfulness(lm, task, circuit, show_progress=False).f
        return tried[weight]

    weight, f = balanced(BEGIN, f_of)
    assert f == tried[weight]
    assert 1 < len(tried) <= TRIES and tried[weight] == min(tried.values(), key=lambda f: abs(1 - f))
    assert abs(1 - tried[weight]) < abs(1 - tried[BEGIN])
    scores = run(lm, task, rounds=1, smallest=n, by="balanced")
    assert set(scores.units[scores.ranking()[:n]].names) == set(kept(weight))
    assert any(f"{f:.2f} of {n} edges" in note for note in scores.notes)
    planned = iterate.work(lm, task, rounds=1, smallest=n, points=1, by="balanced").tokens()
    least = iterate.work(lm, task, rounds=1, smallest=n, points=1).tokens()
    assert 0.5 * least < scores.cost.token_layers <= planned


def test_a_settled_circuit_is_judged_on_all_pairs(tiny, task_of):
    """Halves take turns before; then f is that of the circuit on every pair, and it costs no more than was foretold."""
    lm, task = tiny("llama"), task_of((5, 6), n=8)
    work = iterate.work(lm, task, rounds=2, points=1, by="balanced", smallest=0.3, settle=2)
    scores = work.run(False)
    kept = scores.units[scores.ranking()[: work.last]].names
    f = vc.faithfulness(lm, task, vc.Circuit.from_names(lm, kept), show_progress=False).f
    told = next(note for note in scores.notes if "was judged" in note)
    assert told.count(" edges") == 4 and told.endswith(f"{f:.2f} of {work.last} edges")
    assert scores.cost.token_layers <= work.tokens() and scores.settings["settle"] == 2
    for options in ({"settle": -1}, {"settle": 1, "loss": "kl", "points": 3}):
        with pytest.raises(MethodError, match="settle"):
            run(lm, task, **options)
    few = iterate.work(lm, task, rounds=1, points=1, by="balanced", smallest=3, settle=1, guard=(2, 10**6, 10**7))
    assert few.settings["guard"] == [2, lm.graph.size - 3]  # all others there are, once


def test_a_guarded_round_scores_where_an_adversary_has_restored_others(tiny, task_of):
    """By central differences of whole soft runs, pair by pair, and sorting by hand: 1e-6 of the largest score."""
    from veracausa.circuits.runs.recorded import record
    from veracausa.circuits.selection.guarding import guarded
    from veracausa.cost import Cost
    from veracausa.engine.attention import SUFFIX
    from veracausa.engine.guard import attention_function, borrowed

    lm, task = tiny("llama", num_attention_heads=2, hidden_size=16, num_hidden_layers=2), task_of((5, 6), n=4, seed=4)
    edges, kept, guard = all_edges(lm), np.arange(0, lm.graph.size, 2), (2, 5)
    squares, means = np.zeros(len(edges)), np.zeros(len(edges))
    with torch.no_grad(), borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
        recorded = [record(lm, one, Cost()) for one in (task[:2], task[2:])]
        with torch.enable_grad():
            found, moved = guarded(recorded, edges, kept, guard, 1, lambda _: None)

        def metric(weights):
            """M of all four pairs."""
            mask = torch.zeros(lm.graph.readers, lm.graph.writers, dtype=torch.float64)
            mask[edges.reader, edges.writer] = torch.as_tensor(weights)
            values = np.empty(4)
            for half, one in enumerate(recorded):
                for group in one.groups:
                    at = [2 * half + pair for pair in group.examples(slice(0, len(group)))]
                    every = slice(0, len(group))
                    values[at] = group.metric(group.soft.run(mask, every), every).numpy()
            return values

        inside, first, ends = set(kept.tolist()), None, lm.measure(task)
        half = np.random.default_rng([0, 1]).permutation(4)[:2]
        sign = np.sign(lm.measure(task).gap.sum().item())
        for more in (*guard, None):
            here = np.isin(np.arange(len(edges)), list(inside)).astype(float)
            step = 1e-5 * np.eye(len(edges))
            slopes = np.array([metric(here + one) - metric(here - one) for one in step]) / 2e-5
            first = slopes if first is None else first
            squares += slopes.mean(1) ** 2 + 2 * slopes.var(1, ddof=1) / 4
            means += slopes.mean(1)
            out = sorted(set(range(len(edges))) - inside, key=lambda edge: sign * slopes[edge, half].mean())
            inside |= set(out[: (more or 0) - (len(inside) - len(kept))])
    wanted = np.sign(means) * np.sqrt(squares / 3)
    assert found == pytest.approx(wanted, abs=1e-6 * np.abs(wanted).max())
    moves = []
    for way in (1, -1):  # five others that one half of the pairs chooses, on the other half
        fs = []
        for mine, theirs in (([0, 1], [2, 3]), ([2, 3], [0, 1])):
            rest = set(range(len(edges))) - set(kept.tolist())
            out = sorted(rest, key=lambda edge: way * sign * first[edge, mine].sum())
            with torch.no_grad(), borrowed(lm.decoder), attention_function(lm.decoder, SUFFIX):
                m = metric(np.isin(np.arange(len(edges)), [*kept, *out[:5]]).astype(float))[theirs]
            fs.append((m.mean() - ends.corrupted[theirs].mean().item()) / ends.gap[theirs].mean().item())
        moves.append(way * (1 - np.mean(fs)))
    assert moved == pytest.approx(max(moves), rel=1e-9)  # float64, the same sums in another order


def test_a_guard_is_of_rounds_that_settle(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=8)
    work = iterate.work(lm, task, rounds=2, points=1, by="balanced", smallest=0.3, settle=2, guard=(3, 10))
    scores = work.run(False)
    assert scores.cost.token_layers <= work.tokens() and scores.settings["guard"] == [3, 10]
    assert work.slopes == 2 + 2 * 2 * 3 + 2  # two halves in three states; the last circuit's
    for options in ({"guard": (3, 10)}, {"settle": 1, "guard": (10, 3)}, {"settle": 1, "guard": (0, 3)}):
        with pytest.raises(MethodError, match="guard="):
            run(lm, task, **options)


@pytest.mark.parametrize(("last", "best"), [(0.6, 0), (0.6, 1), (0.5, 2)])
def test_a_guarded_circuit_that_is_broken_is_not_taken(tiny, task_of, tmp_path, monkeypatch, last, best):
    """Also by a call that goes on: every circuit is tried, the last one too."""
    import veracausa.circuits.selection.guarding as guarding
    import veracausa.circuits.selection.iterated as iterated

    lm, task, tried = tiny("llama"), task_of((5, 6), n=8), []

    def strain(recorded, edges, kept, slopes, most):
        tried.append((kept, most))
        return last if len(tried) > 2 else 0.25 if len(tried) - 1 == best else 0.4

    monkeypatch.setattr(guarding, "strain", strain)
    monkeypatch.setattr(iterated, "strain", strain)
    asked = {"rounds": 2, "by": "balanced", "smallest": 0.3, "settle": 2, "guard": (3, 10), "out": tmp_path}
    found = run(lm, task, **asked)
    size = len(tried[0][0])
    assert len(tried) == 3 and all(most == 10 for _, most in tried)
    assert set(found.ranking()[:size]) == set(tried[best][0].tolist())
    assert f"the circuit of round {2 + best} was taken; where 10 others are restored" in found.notes[-1]
    again = run(lm, task, **asked)
    assert len(tried) == 4  # only the last circuit anew
    assert torch.equal(again.values, found.values) and again.cost.token_layers == found.cost.token_layers


@pytest.mark.parametrize("by", ["abs_mean", "balanced"])
def test_an_interrupted_selection_goes_on(tiny, task_of, tmp_path, monkeypatch, by):
    """Bit for bit what it gives in one go, wherever it was cut; finished rounds are neither run nor counted twice."""
    import veracausa.circuits.selection.iterated as module

    lm, task, taken, scores = tiny("llama"), task_of((5, 6), n=8), [], module._scores
    asked = {"rounds": 3, "points": 2, "by": by, "settle": 2, "smallest": 0.3}
    whole = run(lm, task, **asked)

    def counted(*args):
        taken.append(1)
        if len(taken) == stop:
            raise KeyboardInterrupt
        return scores(*args)

    monkeypatch.setattr(module, "_scores", counted)
    rounds, each = (3, 2) if by == "balanced" else (4, 1)  # calls of a settling round: both halves
    for stop in (2, rounds + 1):  # in the second round; in the first that settles
        folder, taken[:] = tmp_path / f"{by}{stop}", []
        with pytest.raises(KeyboardInterrupt):
            run(lm, task, out=folder, **asked)
        taken[:] = [0] * 100
        again = run(lm, task, out=folder, **asked)
        assert len(taken) - 100 == rounds + 2 * each - (stop - 1)
        assert torch.equal(again.values, whole.values) and again.notes == whole.notes
        assert again.cost.token_layers == whole.cost.token_layers
    run(lm, task, out=folder, **{**asked, "settle": 1})
    assert len(list(folder.glob("iterated-*"))) == 2  # another question has pieces of its own


@pytest.mark.parametrize(
    ("f_of", "weight"),
    [
        (lambda weight: 0.8 + 0.5 * weight, 0.4),
        (lambda weight: 0.3 + 0.2 * weight, 1.0),
        (lambda weight: 1.9 + 0.3 * weight, -1.0),
        (lambda weight: 0.8 - 0.4 * weight, -0.5),
        (lambda weight: 1.0, 0.0),
    ],
    ids=["between", "never enough", "always too much", "falling", "at once"],
)
def test_the_weight_is_where_f_is_1(f_of, weight):
    """1e-6: a line is met by its secant; where f cannot be 1 the last weight is an end."""
    assert balanced(0.0, f_of) == pytest.approx((weight, f_of(weight)), abs=1e-6)


def test_balance_is_of_the_metric(tiny, task_of):
    with pytest.raises(MethodError, match="loss='metric'"):
        run(tiny("llama"), task_of(6, n=2), by="balanced", loss="kl", points=3)


def test_scores_may_begin_it(tiny, task_of):
    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    eap = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    assert run(lm, task, rounds=4, start=eap).ranking() == run(lm, task, rounds=4).ranking()
    few = vc.attribute(lm, task, units=["input->m0"], method="eap", show_progress=False)
    with pytest.raises(UnitError, match="all"):
        run(lm, task, start=few)


@pytest.mark.parametrize("by", ["importance", "abs_mean"])
def test_select_offers_it(tiny, task_of, tmp_path, by):
    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    eap = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    more = {"rounds": 4, "points": 1, "returns": True, "show_progress": False, "out": tmp_path}
    circuit = vc.select(eap, n=40, how="iterated", by=by, lm=lm, task=task, prune=False, **more)
    ranking = run(lm, task, rounds=4, smallest=40, returns=True, start=eap, by=by)
    assert set(circuit.names) == set(ranking.units[ranking.ranking()[:40]].names) and len(circuit) == 40
    assert circuit.method == "eap" and circuit.settings["how"] == "iterated" and circuit.settings["rounds"] == 4
    assert "ranks" in repr(circuit) and len(list(tmp_path.glob("iterated-*"))) == 1
    pruned = vc.select(eap, n=40, how="iterated", by=by, lm=lm, task=task, **more)
    assert set(pruned.names) == set(circuit.prune().names)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"how": "iterated"}, "needs the model"),
        ({"how": "iterated", "bootstrap": 0.95}, "needs the model"),
        ({"how": "top", "rounds": 3}, "does not use rounds"),
        ({"how": "luck"}, "iterated"),
    ],
)
def test_select_refuses_what_means_nothing(tiny, task_of, options, word):
    lm, task = tiny("llama"), task_of((5, 6), n=2, seed=4)
    eap = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
    with pytest.raises(MethodError, match=word):
        vc.select(eap, n=40, **options)
    with pytest.raises(MethodError, match="bootstrap"):
        vc.select(eap, n=40, how="iterated", lm=lm, task=task, bootstrap=True)
    with pytest.raises(MethodError, match="no option"):
        vc.select(eap, n=40, how="iterated", lm=lm, task=task, round=3)


@pytest.mark.parametrize("options", [{"rounds": 0}, {"points": 0}, {"smallest": 0}, {"smallest": 1.0}, {"by": "luck"}])
def test_what_means_nothing_is_refused(tiny, task_of, options):
    with pytest.raises(MethodError, match=r"at least 1|smallest="):
        run(tiny("llama"), task_of(6), **options)


def test_kl_keeps_the_output_and_the_metric_overshoots(tiny, task_of):
    """Ranked by what holds the clean distribution, circuits are closer to it than circuits ranked by M."""
    lm, task = tiny("llama"), task_of((5, 6), n=4)
    curves = [
        vc.curve(lm, task, run(lm, task, rounds=8, smallest=0.1, points=2, loss=loss), sizes=(0.2, 0.4),
                 show_progress=False)
        for loss in ("kl", "metric")
    ]  # fmt: skip
    kl, metric = ([float(one.kl.mean()) for one in curve.signed] for curve in curves)
    assert all(a < b for a, b in zip(kl, metric, strict=True))


def test_kl_is_flat_at_the_whole_graph(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    with pytest.raises(MethodError, match="flat at the whole graph"):
        run(lm, task, loss="kl")
    start = vc.attribute(lm, task, units="edges", method="eap-ig", show_progress=False)
    assert run(lm, task, rounds=2, loss="kl", start=start).settings["loss"] == "kl"
    with pytest.raises(MethodError, match="not known"):
        run(lm, task, loss="entropy")
