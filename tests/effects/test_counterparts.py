"""Pairs whose prompts have different lengths: against plain hooks on two whole runs, each at its own length."""

import dataclasses

import pytest
import tiny_models
import torch
from long_models import ORIGINAL, long_model
from naive_groups import effects, values_of

import veracausa as vc
from veracausa.effects.counterparts import with_means
from veracausa.errors import MethodError, TaskError, UnitError
from veracausa.tasks.placing import places
from veracausa.tasks.task import Task
from veracausa.units.at_spans import SpanUnits
from veracausa.units.every_unit import all_units
from veracausa.units.members import Member

QUIET = {"show_progress": False}
ALIGN = ("last", "mean")
#: Clean and corrupted tokens, and spans: longer in the clean prompt, equally long, longer in the corrupted one, in
#: another order, longer at the end of a prompt, single; and pairs of prompts of one length, twice the same.
EVEN = (((1, 2, 10, 3, 20, 21, 5), (1, 2, 11, 3, 22, 23, 5)), {"subject": (2, 3), "object": (4, 6)})
PAIRS = [
    (((1, 2, 10, 11, 12, 3, 20, 4, 5), (1, 2, 13, 3, 21, 4, 5)),
     {"subject": [(2, 5), (2, 3)], "object": [(6, 7), (4, 5)]}),
    EVEN,
    (((1, 10, 3, 20, 21, 4), (1, 11, 12, 13, 3, 22, 4)), {"subject": [(1, 2), (1, 4)], "object": [(3, 5), (5, 6)]}),
    (((10, 11, 3, 20, 4, 5), (30, 3, 12, 13, 14, 4, 5)), {"subject": [(0, 2), (2, 5)], "object": [(3, 4), (0, 1)]}),
    (((1, 10, 2, 20, 21), (1, 11, 12, 2, 22)), {"subject": [(1, 2), (1, 3)], "object": [(3, 5), (4, 5)]}),
    (((1, 10, 11, 6, 5), (1, 12, 13, 14, 6, 5)), {"subject": [(1, 3), (1, 4)]}),
    EVEN,
]  # fmt: skip


def task_of(align, which=(), **options):
    """Some of the pairs (all) as a task."""
    pairs = [PAIRS[i] for i in which or range(len(PAIRS))]
    (clean, corrupted), spans = zip(*(ids for ids, _ in pairs), strict=True), tuple(where for _, where in pairs)
    answers = {"correct": ((40,),) * len(pairs), "incorrect": ((41,),) * len(pairs)}
    made = {"name": "uneven", "clean": clean, "corrupted": corrupted, "spans": spans, "align": align}
    return Task(**(made | answers | options))


def counterpart(task, i, name, noising):
    """(positions that are patched, what stands there of the other run's activations), as the pair names them."""
    own, other = (places(task, i, [name], clean).get(name) for clean in (noising, not noising))
    if own is None:
        return None
    (a, b), (c, d) = own, other
    if b - a == d - c:
        return slice(a, b), slice(c, d)
    if task.align == "last":
        return slice(b - 1, b), slice(d - 1, d)
    return slice(a, b), lambda new: new[:, c:d].mean(1, keepdim=True)


def naive(lm, task, units, direction="noising"):
    """Effects of units at spans by hooks on whole runs of both prompts."""

    def placed(i):
        found = []
        for layer, index, name in units.keys:
            where = counterpart(task, i, name, direction == "noising")
            found.append(where and [(Member(units.kind, int(layer), int(index)), *where)])
        return found

    return effects(lm, task, placed, direction)


def some(units):
    """A unit or two of the first and of the last layer."""
    last = int(units.layer.max())
    return units[[u for u, (layer, index, _) in enumerate(units.keys) if index in (-1, 0) and layer in (0, last)]]


def close(ours, theirs):
    """The same sums in another order, in float64."""
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10, equal_nan=True)


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, ("llama", "gemma2")))
@pytest.mark.parametrize("align", ALIGN)
@pytest.mark.parametrize("kind", ["heads", "mlps", "attention", "neurons", "residual", "values"])
def test_spans_are_what_hooks_on_two_whole_runs_give(tiny, family, align, kind):
    if kind == "values" and family.startswith("gpt"):
        pytest.skip("the naive reference does not split fused projections")
    lm, task = tiny(family), task_of(align)
    units = some(SpanUnits.at(all_units(lm, kind), [*task.span_names, "end"]))
    for direction in ("noising", "denoising"):
        scores = vc.exact(lm, task, units=units, direction=direction, **QUIET)
        close(scores.values, naive(lm, task, units, direction))
        assert (scores.mean().abs() > 1e-6).any() and scores.pairs().tolist() == [7, 6, 7] * (len(units) // 3)


@pytest.mark.parametrize("kind", ["longrope", "gemma3 longrope"])
def test_positions_that_depend_on_the_length(kind):
    """One prompt is shorter than the length at which the model changes its positions, the other longer."""
    lm, one, end = long_model(kind), tuple(range(1, 21)), tuple(range(30, 39))
    clean, corrupted = (*one, 40, *end), (*one, 41, 42, 43, 44, 45, *end)
    assert len(clean) < ORIGINAL < len(corrupted)
    task = Task("long", (clean,), (corrupted,), ((40,),), ((41,),), spans=({"s": [(20, 21), (20, 25)]},), align="mean")
    units = some(SpanUnits.at(all_units(lm, "heads"), ["s", "end"]))
    for direction in ("noising", "denoising"):
        scores = vc.exact(lm, task, units=units, direction=direction, **QUIET)
        close(scores.values, naive(lm, task, units, direction))
        assert scores.values.abs().max() > 0.1


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(["llama", "gpt2", "gemma2", "gpt_neox"], ("llama",)))
@pytest.mark.parametrize("align", ALIGN)
def test_groups(tiny, family, align):
    lm, task = tiny(family), task_of(align)
    asked = ["m0+m1@subject", ("a0.h1@subject", "m1@object"), ("a1.h0@end", "r2@object"), "m1+m2@-1", "a1.h2@-1"]
    asked += [("a0.h0@subject", "a0.h0@object", "a0.h1@object")]
    for direction in ("noising", "denoising"):
        scores = vc.exact(lm, task, units=asked, direction=direction, **QUIET)

        def placed(i, direction=direction, groups=scores.units):
            noising = direction == "noising"
            found = []
            for members in groups.members:
                group = [(one, counterpart(task, i, one.at or "end", noising)) for one in members]
                found.append(None if any(where is None for _, where in group) else [(a, *b) for a, b in group])
            return found

        close(scores.values, effects(lm, task, placed, direction))


@pytest.mark.cases(1)
@pytest.mark.parametrize("align", ALIGN)
@pytest.mark.slow
def test_pairs_of_one_length_have_the_numbers_that_they_have_alone(tiny, align):
    """Bit for bit, since they share batches with each other alone; and every pair those of its own task."""
    lm, task = tiny("llama"), task_of(align)
    even = task_of(align, which=(1, 4, 6))
    for units in ("heads@spans", "neurons@object", [("m0@subject", "a1.h0@end"), "m1+m2@object"]):
        for direction in ("noising", "denoising"):
            how = {"units": units, "direction": direction, **QUIET}
            scores = vc.exact(lm, task, **how)
            assert torch.equal(scores.values[[1, 4, 6]].nan_to_num(7), vc.exact(lm, even, **how).values.nan_to_num(7))
            for i in range(len(task)):
                if units != "heads@spans" and "object" not in task.spans[i]:
                    continue
                alone = vc.exact(lm, task[i], **how)
                had = alone.values[0].isfinite()
                names = [name for name, kept in zip(alone.units.names, had.tolist(), strict=True) if kept]
                columns = [scores.units.names.index(name) for name in names]
                close(scores.values[i, columns], alone.values[0, had])
    measured, bare = lm.measure(task), lm.measure(even)
    assert torch.equal(measured.clean[[1, 4, 6]], bare.clean)
    assert torch.equal(measured.corrupted[[1, 4, 6]], bare.corrupted)


@pytest.mark.slow
@pytest.mark.cases(1)
@pytest.mark.parametrize("align", ALIGN)
def test_chunks_forecasts_and_interrupted_calls(tiny, align, tmp_path):
    lm, task = tiny("llama"), task_of(align)
    for units in ("heads@spans", [("m0@subject", "m1@end"), "m2@object+a1.h0@subject"]):
        for direction in ("noising", "denoising"):
            how = {"units": units, "direction": direction, **QUIET}
            whole = vc.exact(lm, task, **how)
            assert vc.exact.work(lm, task, units=units, direction=direction).tokens() == whole.cost.token_layers
            assert vc.forecast(vc.exact, lm, task, units=units, direction=direction).seconds > 0
            small = vc.exact(lm, task, rows=2, share_prefix=False, **how)
            close(small.values, whole.values)
            for _ in range(2):
                kept = vc.exact(lm, task, out=tmp_path, **how)
                assert torch.equal(kept.values.nan_to_num(7), whole.values.nan_to_num(7))
    other = vc.exact(lm, task_of(ALIGN[align == "last"]), units="heads@spans", out=tmp_path, **QUIET)
    assert not torch.equal(other.values.nan_to_num(7), vc.exact(lm, task, units="heads@spans", **QUIET).values)


def measured(lm, prompt, at, correct=40, incorrect=41):
    with torch.no_grad():
        logits = lm.hf(torch.tensor([prompt])).logits[0, at]
    return float(logits[correct] - logits[incorrect])


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, ("llama", "gemma2")))
def test_both_prompts_are_measured_at_their_own_length(tiny, family):
    lm, task = tiny(family), task_of("last")
    found = lm.measure(task)
    for ours, prompts in ((found.clean, task.clean), (found.corrupted, task.corrupted)):
        close(ours, torch.tensor([measured(lm, ids, -1) for ids in prompts], dtype=torch.float64))


def test_metrics_that_compare_with_the_clean_run(tiny):
    """The corrupted run is compared with the clean one where each is read, not with itself."""
    lm, task = tiny("llama"), task_of("last", which=(0, 2, 3), metric="neg_kl")

    def logs(ids):
        with torch.no_grad():
            return lm.hf(torch.tensor([ids])).logits[0, -1].log_softmax(-1)

    wanted = []
    for clean, corrupted in zip(task.clean, task.corrupted, strict=True):
        one, other = logs(clean), logs(corrupted)
        wanted.append(-(one.exp() * (one - other)).sum())
    found = lm.measure(task)
    close(found.corrupted, torch.stack(wanted))
    assert found.clean.abs().max() < 1e-9

    def surprise(logits, clean):
        return -(clean.exp() * (clean - logits.log_softmax(-1))).sum(-1)

    own = task.with_metric(surprise)
    for direction in ("noising", "denoising"):
        how = {"units": ["m0@subject", "m0@end"], "direction": direction, **QUIET}
        close(vc.exact(lm, own, **how).values, vc.exact(lm, task, **how).values)
        assert vc.exact(lm, task, **how).values.abs().max() > 1e-4


def test_read_elsewhere_than_at_the_end(tiny):
    """Each prompt at its own counterpart of the position: from the end, and at a span that is equally long."""
    lm = tiny("llama")
    for which, read, there in (((0,), (6,), 4), ((3,), (3,), 0), ((0,), (-2,), 5), ((0,), (1,), 1)):
        task = task_of("last", which=which, read=(read,))
        found, at = lm.measure(task), read[0]
        assert float(found.clean[0]) == pytest.approx(measured(lm, task.clean[0], at), abs=1e-9)
        assert float(found.corrupted[0]) == pytest.approx(measured(lm, task.corrupted[0], there), abs=1e-9)
        for direction in ("noising", "denoising") if at != 1 else ():  # which is before the first difference
            scores = vc.exact(lm, task, units=["r0@subject", "r3@object"], direction=direction, **QUIET)
            before = torch.stack([found.clean, found.corrupted])[int(direction == "denoising")]
            base, other = (task.clean[0], task.corrupted[0])[:: 1 if direction == "noising" else -1]
            place = at if direction == "noising" else there
            for u, (layer, name) in enumerate(((0, "subject"), (3, "object"))):
                here, from_there = counterpart(task, 0, name, direction == "noising")
                stream = patched_stream(lm, layer, base, other, here, from_there)[place]
                assert float(scores.values[0, u]) == pytest.approx(float(stream - before), abs=1e-9)
    with pytest.raises(
        TaskError, match=r"pair 0 .* is read at positions \[3\], of which the corrupted prompt has not all"
    ):
        task_of("last", which=(0,), read=((3,),))


def patched_stream(lm, layer, base, other, here, there):
    """The logit difference everywhere, with the stream before a block taken from another prompt at some positions."""
    decoder = lm.decoder
    module = decoder.final_norm if layer == lm.layers else decoder.backbone.layers[layer]
    kept = []
    watch = module.register_forward_pre_hook(lambda _, a: kept.append(a[0]))
    with torch.no_grad():
        lm.hf(torch.tensor([other]))
    watch.remove()

    def put(_, a):
        stream = a[0].clone()
        stream[:, here] = kept[0][:, there]
        return (stream, *a[1:])

    edit = module.register_forward_pre_hook(put)
    with torch.no_grad():
        logits = lm.hf(torch.tensor([base])).logits[0]
    edit.remove()
    return logits[:, 40] - logits[:, 41]


@pytest.mark.cases(1)
@pytest.mark.parametrize("ablation", ["zero", "mean", "own", "added", "noise"])
def test_what_needs_the_clean_prompt_alone_is_had_everywhere(tiny, ablation):
    lm, task = tiny("llama"), task_of("last")
    value = {"m1": torch.ones(lm.width)}
    given = {"own": vc.effects.Own(value), "added": vc.effects.Added(value), "noise": vc.effects.Noise(draws=2)}
    how = {"ablation": given.get(ablation, ablation), **QUIET}
    how |= {"reference": task} if ablation in ("mean", "noise") else {}
    for units in (["m1"], ["m1@subject"], ["m1@2"], [("m1@object",), "m1@-1"]):
        scores, bare = vc.exact(lm, task, units=units, **how), vc.exact(lm, task.sides[0], units=units, **how)
        assert torch.equal(scores.values.nan_to_num(7), bare.values.nan_to_num(7))
        assert vc.exact.work(lm, task, units=units, **how).tokens() == scores.cost.token_layers
        assert "align" not in scores.settings and scores.values.isfinite().any()


def test_means_over_prompts_of_which_the_clean_ones_are_equally_long(tiny):
    """Over all positions, as of the same prompts in a list."""
    lm, pairs = tiny("llama"), task_of("last", which=(2, 3))
    prompts = Task("all", pairs.prompts, (), ((40,),) * 4, ((41,),) * 4)
    even = dataclasses.replace(
        task_of(None, which=(1,)), clean=((1, 10, 3, 20, 21, 4),), corrupted=((1, 9, 3, 20, 7, 4),)
    )
    even = dataclasses.replace(even, spans=())
    circuit = vc.select(vc.attribute(lm, even, units="edges", method="eap", **QUIET), n=30, how="top")
    one, other = ({"ablation": "mean", "reference": reference, **QUIET} for reference in (pairs, prompts))
    assert torch.equal(*(vc.exact(lm, even, units="mlps", **how).values for how in (one, other)))
    assert torch.equal(*(vc.faithfulness(lm, even, circuit, **how).metric for how in (one, other)))


def test_resampling_never_draws_the_pair_itself(tiny):
    lm, task = tiny("llama"), task_of("last", which=(1, 3, 5))
    again = task_of("last", which=(1, 3, 5, 2, 0, 4))
    scores = vc.exact(lm, task, units="mlps", ablation="resample", reference=again, **QUIET)
    assert scores.values.isfinite().all() and scores.values.abs().max() > 0.01


def slopes(lm, prompt, place, layer):
    """The gradient of the logit difference at a place of a layer, [positions, site]."""
    block, found = lm.decoder.blocks[layer], []

    def watched(own):
        found.append(torch.zeros_like(own, requires_grad=True))
        return own + found[0]

    if place == "z":
        handle = block.attention_out.register_forward_pre_hook(lambda _, a: (watched(a[0]), *a[1:]))
    else:
        handle = block.mlp.register_forward_hook(lambda _, __, out: watched(out))
    with torch.enable_grad():
        logits = lm.hf(torch.tensor([prompt])).logits[0, -1]
        (gradient,) = torch.autograd.grad(logits[40] - logits[41], found)
    handle.remove()
    return gradient[0]


@pytest.mark.cases(1)
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES, ("llama", "gemma2")))
@pytest.mark.parametrize("align", ALIGN)
@pytest.mark.parametrize("kind", ["heads", "mlps"])
def test_estimates_are_gradients_times_aligned_differences(tiny, family, align, kind):
    lm, task = tiny(family), task_of(align)
    units = some(SpanUnits.at(all_units(lm, kind), ["subject", "object"]))
    for direction in ("noising", "denoising"):
        noising = direction == "noising"
        scores = vc.attribute(lm, task, units=units, method="atp", direction=direction, **QUIET)
        wanted = torch.full_like(scores.values, float("nan"))
        for i in range(len(task)):
            base, other = (task.clean[i], task.corrupted[i])[:: 1 if noising else -1]
            for u, (layer, index, name) in enumerate(units.keys):
                if (where := counterpart(task, i, name, noising)) is None:
                    continue
                one, (here, there) = Member(units.kind, int(layer), int(index)), where
                own, new = (values_of(lm, ids, [(one,)])[one.place, one.layer] for ids in (base, other))
                change = (there(new) if callable(there) else new[:, there]) - own[:, here]
                part = slice(0, lm.decoder.head_dim) if kind == "heads" else slice(None)
                wanted[i, u] = (change[0] * slopes(lm, base, one.place, one.layer)[here])[:, part].sum()
        close(scores.values, wanted)
        assert scores.cost.token_layers == vc.attribute.work(lm, task, units=units, direction=direction).tokens()
    assert scores.settings["align"] == align and "at spans: the sum" in " ".join(scores.notes)


def test_estimates_beside_exact_effects(tiny):
    lm = tiny("llama")
    task = task_of("last", which=(0, 1, 2, 3, 5))
    estimate = vc.attribute(lm, task, units="mlps@subject", **QUIET)
    exact = vc.exact(lm, task, units="mlps@subject", **QUIET)
    assert vc.agreement(estimate, exact).n == 5
    receipt = vc.verify(lm, task, estimate, top=2, sample=1, **QUIET)
    assert torch.equal(receipt.exact.values, exact.values)
    ends = vc.attribute(lm, task, units="mlps@spans", **QUIET)
    assert torch.equal(ends.values[:, 0], estimate.values[:, 0])
    with pytest.raises(MethodError, match=r"path='inputs' moves all positions.*such as 'atp'\.$"):
        vc.attribute(lm, task, units="mlps@spans", method="eap-ig", **QUIET)
    for align in ALIGN:
        with pytest.raises(MethodError, match=r"Pair 4 of 'uneven' ends with the span 'object'"):
            vc.attribute(lm, task_of("mean"), units="mlps@spans", **QUIET)
        with pytest.raises(UnitError, match="Queries, keys and patterns belong to their positions"):
            vc.attribute(lm, task_of(align), units="queries@subject", **QUIET)
    even, plain = (vc.attribute(lm, task_of(align, which=(1, 6)), units="mlps@spans", method="ig", **QUIET)
                   for align in ("last", None))  # fmt: skip
    assert torch.equal(even.values, plain.values)
    both = vc.effects.interactions(lm, task, units=["m0+m1@subject"], **QUIET)
    pair = vc.exact(lm, task, units=["m0+m1@subject"], **QUIET)
    close(both.values[:, 0], pair.values[:, 0] - exact.values[:, :2].sum(1))


UNALIGNED = [
    ("exact", {"units": "heads"}), ("exact", {"units": ["m0@3"]}), ("exact", {"units": "edges"}),
    ("exact", {"units": ["a0.h0->m1"]}), ("exact", {"units": ["a0.h0->m1->logits"]}),
    ("attribute", {"units": "heads"}), ("attribute", {"units": "edges", "method": "eap"}),
    ("compare", {}), ("study", {}), ("discover", {"edges": 20}), ("circuits.learn", {}),
    ("effects.last_in", {}), ("effects.direct", {}), ("effects.shapley", {"units": "heads"}),
    ("effects.causal_tracing", {}), ("effects.optimal_constants", {"units": "heads"}), ("estimates.learn_mask", {}),
    ("reading.lens", {}), ("reading.dla", {}), ("behaviour.ablation_study", {"units": ["m0"]}),
    ("causes.disagreement", {}), ("counterfactuals.general_purpose", {}), ("counterfactuals.baselines", {}),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "how"), UNALIGNED, ids=lambda one: one if isinstance(one, str) else "")
def test_what_compares_position_by_position_is_refused(tiny, verb, how):
    """Before anything is run, in one sentence that says what can be asked."""
    lm, call = tiny("llama"), vc
    for part in verb.split("."):
        call = getattr(call, part)
    with pytest.raises(MethodError, match=r"position by position, but in \d of \d pairs of 'uneven' spans alone"):
        call(lm, task_of("last"), **how)


def test_a_graph_for_neuronpedia_shows_where_prompts_differ(tiny, tmp_path):
    lm = tiny("llama")
    edges = vc.attribute(lm, task_of(None, which=(1,)), units="edges", method="eap", **QUIET)
    circuit = vc.select(edges, n=20, how="top")
    with pytest.raises(MethodError, match="position by position"):
        vc.circuits.write(circuit, tmp_path / "x.json", format="neuronpedia", lm=lm, task=task_of("last"))


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (
            [("m0",)],
            r"'m0': in pair 0 of 'uneven', whose prompts have 9 and 7 tokens, only spans correspond, and the last 2",
        ),
        (["m0+m1@3-4"], "only spans correspond"),
        (["m0+m1@-3--1"], "only spans correspond"),
        ([("a1.h0<q>@-1", "m0@subject")], "Queries, keys and patterns belong to their positions"),
        ("queries@end", "Queries, keys and patterns belong to their positions"),
        ("keys@subject", "Queries, keys and patterns belong to their positions"),
        ("patterns@spans", "Queries, keys and patterns belong to their positions"),
    ],
)
def test_units_that_have_no_counterpart(tiny, units, message):
    with pytest.raises(UnitError, match=message):
        vc.exact(tiny("llama"), task_of("last", which=(0,)), units=units, **QUIET)


def test_what_both_prompts_end_with_corresponds_from_the_end(tiny):
    lm, task = tiny("llama"), task_of("mean", which=(0, 3))
    last = vc.exact(lm, task, units=["m0+m1@-2--1"], **QUIET)
    stops = dataclasses.replace(task, spans=tuple({"stop": [(n - 2, n), (m - 2, m)]} for n, m in ((9, 7), (6, 7))))
    close(last.values, vc.exact(lm, stops, units=[("m0@stop", "m1@stop")], **QUIET).values)


def test_headers_say_what_corresponds(tiny, tmp_path):
    lm = tiny("llama")
    for align in ALIGN:
        scores = vc.exact(lm, task_of(align), units="mlps@spans", **QUIET)
        assert scores.settings["unequal"] == "subject in 5 of 7 pairs, object in 2 of 7 pairs"
        assert ("an activation of neither run" in " ".join(scores.cautions)) == (align == "mean")
        assert (
            "5 to 9 tokens (4 of unequal prompts, aligned at spans)" in scores.task["description"]
            and "pairs" in scores.table()
        )
        again = vc.open(scores.save(tmp_path / "one.safetensors"))
        assert repr(again) == repr(scores) and again.task == scores.task
    alike = vc.exact(lm, task_of("mean", which=(1,)), units="mlps@spans", **QUIET)
    assert "align" not in alike.settings and not [one for one in alike.cautions if "neither" in one]
    with pytest.raises(MethodError):
        vc.agreement(scores, vc.exact(lm, task_of("last"), units="mlps@spans", **QUIET))


def test_spans_of_unequal_lengths_in_prompts_of_one_length(tiny):
    """Whole-run units go by position, as ever; spans as `align` says."""
    lm, task = tiny("llama"), task_of("last", which=(4,))
    assert not task.uneven
    assert torch.equal(vc.exact(lm, task, units="heads", **QUIET).values,
                       vc.exact(lm, task_of(None, which=(4,)), units="heads", **QUIET).values)  # fmt: skip
    with pytest.raises(UnitError, match=r"Say what does, vc\.task"):
        vc.exact(lm, task_of(None, which=(4,)), units="mlps@subject", **QUIET)


def test_a_mean_over_several_spans():
    values = torch.arange(6.0).reshape(1, 6, 1)
    found = with_means(values, torch.tensor([[[0, 2], [2, 5], [-1, -1]]]))
    assert found[0, 6:, 0].tolist() == [0.5, 3.0, 0.0] and torch.equal(found[:, :6], values)
