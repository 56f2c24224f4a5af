"""Groups of units as one patch: against hooks on a whole run, single units, and what is refused."""

import pytest
import tiny_models
import torch
from naive_groups import effects

import veracausa as vc
from veracausa.errors import MethodError, UnitError
from veracausa.units.groups import Groups, is_grouped, pieces
from veracausa.units.members import Member

QUIET = {"show_progress": False}
GROUPS = [
    ("a0.h1", "a1.h0"),
    "m0+a1.h2+m2",
    ("a0", "m1.n3", "m1.n5"),
    "a1.h0<q>+a1.kv0<v>",
    "a2.kv1<k>+m0@3",
    "m0+m1@2-4",
    ("a0.h0@5", "m2@4-5", "a1.h1"),
    "r1@3+a2.h3",
    "r2@2-3+m2.n1",
    "a0.h3@1-5",
    "m1@-1+a2.h0@-3--2",
    ("m0@end", "r2@-2", "a0.h1@1"),
]


def naive(lm, task, groups, direction="noising", ablation="counterfactual"):
    """Effects of groups by hooks on whole runs, pair by pair."""

    def where(one, n):
        return slice(None) if one.first is None else slice(one.first % n, one.last % n + 1)

    def placed(i):
        n = task.lengths[i]
        return [[(one, where(one, n), where(one, n)) for one in members] for members in groups.members]

    return effects(lm, task, placed, direction, ablation)


def usable(family):
    """Fused projections have no output of queries alone, so hooks on projections tell nothing of these groups."""
    fused = family.startswith(("gpt2", "gpt_neox"))
    heads = [one for one in GROUPS if not (fused and "<" in str(one))]
    return (
        heads
        if family not in ("qwen3", "gemma3")
        else [one for one in heads if "<q>" not in str(one) and "<k>" not in str(one)]
    )


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_groups_are_what_hooks_on_a_whole_run_give(tiny, task_of, family, direction):
    lm, task = tiny(family), task_of((6, 8), n=3)
    scores = vc.exact(lm, task, units=usable(family), direction=direction, **QUIET)
    # the same sums in another order, in float64
    torch.testing.assert_close(scores.values, naive(lm, task, scores.units, direction), rtol=1e-8, atol=1e-10)
    assert (scores.mean().abs() > 1e-6).any()


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma2"])
def test_groups_set_to_zero(tiny, task_of, family):
    lm, task = tiny(family), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units=usable(family), ablation="zero", **QUIET)
    wanted = naive(lm, task, scores.units, ablation="zero")
    torch.testing.assert_close(scores.values, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.cases(4)
@pytest.mark.parametrize("ablation", ["counterfactual", "zero", "mean", "resample"])
@pytest.mark.parametrize("kind", ["heads", "mlps", "neurons", "attention", "residual", "queries", "keys", "values"])
def test_a_group_of_one_is_that_unit(tiny, task_of, kind, ablation):
    lm, task = tiny("llama"), task_of(7, n=4)
    singles = vc.exact(lm, task, units=kind, ablation=ablation, seed=3, **QUIET)
    chosen = [0, len(singles) - 1]
    names = singles.units[chosen].names
    grouped = vc.exact(lm, task, units=[(name,) for name in names], ablation=ablation, seed=3, **QUIET)
    if kind == "attention" and ablation == "resample":
        return  # a layer alone draws one prompt for all heads, a group one for each
    torch.testing.assert_close(grouped.values, singles.values[:, chosen], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["queries", "keys", "values"])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_what_attention_reads_in_a_group_of_one(tiny, task_of, family, kind):
    """Also where a family fuses its projections, and behind its norms and rotations of queries and keys."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    singles = vc.exact(lm, task, units=kind, **QUIET)
    grouped = vc.exact(lm, task, units=[(name,) for name in singles.units.names], **QUIET)
    torch.testing.assert_close(grouped.values, singles.values, rtol=1e-8, atol=1e-10)


def test_all_heads_of_a_layer_are_the_layer(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    layer = vc.exact(lm, task, units=["a1"], **QUIET)
    heads = vc.exact(lm, task, units=[tuple(f"a1.h{i}" for i in range(lm.heads))], **QUIET)
    torch.testing.assert_close(layer.values, heads.values, rtol=1e-9, atol=1e-11)


def test_the_whole_last_stream_is_the_gap(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    scores = vc.exact(lm, task, units=[("r0", "m0"), (f"r{lm.layers}", "a0.h0")], **QUIET)
    assert scores.values[:, 1].tolist() == pytest.approx((scores.corrupted - scores.clean).tolist(), abs=1e-10)


def test_rows_of_many_groups_are_those_of_each_alone(tiny, task_of):
    """Whatever else travels in the sweep, and in chunks of any size."""
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    together = vc.exact(lm, task, units=GROUPS, **QUIET)
    for rows in (1, 3):
        some = vc.exact(lm, task, units=GROUPS, rows=rows, **QUIET)
        torch.testing.assert_close(some.values, together.values, rtol=1e-10, atol=1e-12)
    for i, one in enumerate(GROUPS):
        alone = vc.exact(lm, task, units=[one], **QUIET)
        torch.testing.assert_close(alone.values[:, 0], together.values[:, i], rtol=1e-10, atol=1e-12)


def test_what_it_costs_is_forecast(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=3)
    for ablation in ("counterfactual", "mean", "zero"):
        scores = vc.exact(lm, task, units=GROUPS, ablation=ablation, **QUIET)
        assert vc.exact.work(lm, task, units=GROUPS, ablation=ablation).tokens() == scores.cost.token_layers


def test_positions_that_a_prompt_has_not(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 9), n=4)
    scores = vc.exact(lm, task, units=["m0@6-8", "m0@2+m1@7"], **QUIET)
    short = torch.tensor([n == 6 for n in task.lengths])
    assert scores.values[short].isnan().all() and scores.values[~short].isfinite().all()


def test_positions_from_the_end_are_those_of_each_prompt(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 9), n=4)
    ends = vc.exact(lm, task, units=["m0@-1", "m1@-2--1"], **QUIET)
    for i, n in enumerate(task.lengths):
        own = vc.exact(lm, task[i : i + 1], units=[f"m0@{n - 1}-{n - 1}", f"m1@{n - 2}-{n - 1}"], **QUIET)
        torch.testing.assert_close(ends.values[i : i + 1], own.values, rtol=1e-10, atol=1e-12)
    assert ends.values.isfinite().all() and ends.units.names == ["m0@-1", "m1@-2--1"]


def test_before_the_first_difference_nothing_changes(tiny, task_of):
    lm, task = tiny("llama"), task_of(8, n=2)
    start = min(
        next(i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b)
        for x, y in zip(task.clean, task.corrupted, strict=True)
    )
    if start == 0:
        task = vc.Task(
            "late",
            tuple((1, *x) for x in task.clean),
            tuple((1, *x) for x in task.corrupted),
            task.correct,
            task.incorrect,
        )
    scores = vc.exact(lm, task, units=["m0@0+a1.h1@0", ("m0@0", "m1")], **QUIET)
    assert (scores.values[:, 0] == 0).all() and (scores.values[:, 1] != 0).any()


def test_names_files_and_tables(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    named = vc.exact(lm, task, units={"movers": ["a0.h1", "a1.h0"], "late": "m1+m2@3"}, **QUIET)
    assert named.units.names == ["movers", "late"]
    again = vc.open(named.save(tmp_path / "groups.safetensors"))
    assert again.units.names == named.units.names and again.units.digest() == named.units.digest()
    assert torch.equal(again.values, named.values) and again.units.members == named.units.members
    table = named.table()
    assert list(table.columns[:4]) == ["name", "layer", "units", "members"]
    assert table["members"].tolist() == ["a0.h1 a1.h0", "m1@3 m2@3"]
    assert "2 groups" in repr(named) and "movers" in repr(named)
    assert named.units[[1]].names == ["late"]
    bare = vc.exact(lm, task, units=[("a0.h1", "a1.h0"), "m1+m2@3"], **QUIET)
    assert bare.units.names == ["a0.h1+a1.h0", "m1@3+m2@3"] and torch.equal(bare.values, named.values)
    many = vc.exact(lm, task, units=[tuple(f"m1.n{i}" for i in range(12)), "m0"], **QUIET)
    assert many.units.names == ["m1.n0+…+m1.n11 (12 units)", "m0"] and "…" in many.table()["members"][0]
    assert vc.agreement(named, bare).r == pytest.approx(1)
    named.chart().save(str(tmp_path / "groups.html"))


def test_an_interrupted_call_goes_on(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 8), n=4)
    whole = vc.exact(lm, task, units=GROUPS, **QUIET)
    first = vc.exact(lm, task, units=GROUPS, out=tmp_path, **QUIET)
    again = vc.exact(lm, task, units=GROUPS, out=tmp_path, **QUIET)
    assert torch.equal(first.values, whole.values) and torch.equal(again.values, whole.values)
    other = vc.exact(lm, task, units=GROUPS[::-1], out=tmp_path, **QUIET)  # other groups find nothing of these
    torch.testing.assert_close(other.values, whole.values.flip(1), rtol=1e-10, atol=1e-12)


def test_interactions_are_what_is_left_of_the_sum(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=3)
    groups = [("a0.h1", "m1"), ("m0@3", "a1.h0", "m2"), "a0.h1+a1.h0"]
    for direction in ("noising", "denoising"):
        found = vc.effects.interactions(lm, task, units=groups, direction=direction, **QUIET)
        joint = vc.exact(lm, task, units=groups, direction=direction, **QUIET)
        singles = vc.exact(
            lm, task, units=[(one,) for one in ("a0.h1", "m1", "m0@3", "a1.h0", "m2")], direction=direction, **QUIET
        )
        a, b, c, d, e = singles.values.T
        wanted = joint.values - torch.stack([a + b, c + d + e, a + d], 1)
        torch.testing.assert_close(found.values, wanted, rtol=1e-9, atol=1e-11)
        assert "0: they add up" in repr(found)
        assert found.method == "interaction" and found.units.names == joint.units.names
    assert vc.effects.interactions.work(lm, task, units=groups).tokens() == found.cost.token_layers
    for units in ("heads", ["m0"], [("m0",), ("m1", "m2")]):
        with pytest.raises(UnitError, match="of two units or more"):
            vc.effects.interactions(lm, task, units=units, **QUIET)


def test_units_in_the_last_stream_add_up(tiny, task_of, monkeypatch):
    """Behind the last block the logit difference is affine in what two units write, but for the final norm."""
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    last = lm.layers - 1
    monkeypatch.setattr(lm.decoder.final_norm, "forward", lambda x: x)
    found = vc.effects.interactions(lm, task, units=[(f"m{last}.n1", f"m{last}.n2")], **QUIET)
    assert found.values.abs().max() < 1e-12


def test_what_names_mean():
    assert pieces("m3+m4@5-8", "") == [("m3", (5, 8), None), ("m4", (5, 8), None)]
    assert pieces("m3+m4@end", "") == [("m3", (-1, -1), None), ("m4", (-1, -1), None)] == pieces("m3+m4@-1", "")
    assert pieces("m3@-3--1", "") == [("m3", (-3, -1), None)]
    assert pieces("m3@2+m4@5-8", "") == [("m3", (2, 2), None), ("m4", (5, 8), None)]
    assert pieces(("a0.h1", "m3+m4@5"), "") == [
        ("a0.h1", None, None), ("m3", (5, 5), None), ("m4", (5, 5), None),
    ]  # fmt: skip
    assert pieces("m3+m4@S2", "") == [("m3", "S2", None), ("m4", "S2", None)]
    assert is_grouped({"x": ["m0"]}) and is_grouped("m0+m1") and is_grouped(["m0", ("m1",)]) and is_grouped("m0@1-2")
    assert not any(map(is_grouped, ("heads", ["m0@1"], "a0.h0->m1", ["a0.h0->m1@2"], 3)))
    pair = Groups.of([[Member("mlps", 0, -1), Member("heads", 1, 2)], [Member("mlps", 0, -1)]])
    assert pair.singles().names == ["m0", "a1.h2"] and pair.places == ["mlp", "z"]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([("a0.h0", "a0.h0")], "'a0.h0\\+a0.h0' holds a0.h0 twice"),
        ([("a0", "a0.h0")], "holds a0 and a0.h0, which overlap"),
        (["m0@1-3+m0@3-5"], "which overlap"),
        ([()], "is empty"),
        ([], "is empty"),
        ({}, "no groups"),
        ({"x": []}, "'x' is empty"),
        (["m0+m9"], "'m9' is not in"),
        (["m0+x"], "'x' is not the name of a unit"),
        (["m0@8-9"], "'m0@8-9' of the group 'm0@8-9': no prompt of this task has such a position"),
        (["m0@5-3"], "positions 5-3 of m0 are no range"),
        (["m0@2--1"], "positions 2--1 of m0 are no range"),
        (["m0@-9"], "no prompt of this task has such a position"),
        (["m0@2+m0@-1"], "holds m0@2 and m0@-1, which overlap"),
        ([("m0", 3)], r"a group is a name or a tuple of names|units is"),
        (["m0+m1", ("m0", "m1")], r"Groups have the same name: m0\+m1"),
    ],
)
def test_what_is_no_group(tiny, task_of, units, message):
    with pytest.raises((UnitError, MethodError), match=message):
        vc.exact(tiny("llama"), task_of(6, n=2), units=units, **QUIET)


def test_other_verbs_take_single_units(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    for verb in (vc.attribute, vc.effects.last_in, vc.effects.shapley, vc.effects.direct, vc.estimates.learn_mask):
        with pytest.raises(UnitError, match=r"only vc\.exact takes them"):
            verb(lm, task, units=["m0+m1"], **QUIET)
    with pytest.raises(MethodError, match="optimal"):
        vc.exact(lm, task, units=["m0+m1"], ablation="optimal", **QUIET)
    with pytest.raises(MethodError, match="Verify an estimate"):
        vc.verify(lm, task, vc.exact(lm, task, units=["m0+m1"], **QUIET), **QUIET)


def test_names_read_back_as_what_they_name(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    for units in ([("a0.h1", "m1@2")], [("a0.h1@2", "m1")], [("a0.h1", "m1@2-3", "a2.h0")], ["a0.h1+m1@2"]):
        first = vc.exact(lm, task, units=units, **QUIET)
        again = vc.exact(lm, task, units=first.units.names, **QUIET)
        assert again.units.names == first.units.names and torch.equal(again.values, first.values)


def test_a_table_of_another_model_is_refused(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    heads = [Member("heads", 0, 9)], [Member("heads", 0, -1)], [Member("mlps", 7, -1)], [Member("mlps", 0, 2)]
    for members in heads:
        with pytest.raises(UnitError, match=r"is not in|a unit of that kind has"):
            vc.exact(lm, task, units=Groups.of([members]), **QUIET)
    for wrong in (Member("mlps", 0, -1, 3, 2), Member("nope", 0, 0), Member("mlps", 0, -1, 3)):
        with pytest.raises(UnitError, match="is no unit at positions"):
            Groups.of([[wrong]])
    with pytest.raises(UnitError, match="not the name of a unit"):
        vc.exact(lm, task, units=["m0@" + "9" * 5000 + "-" + "9" * 5001], **QUIET)


def test_agreement_of_several_groups(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=8)
    one = vc.exact(lm, task, units=["m0+m1", "m1+m2", "m0+m2"], **QUIET)
    assert vc.agreement(one, one).r == pytest.approx(1)
    # by what they are made of, whatever they are called and in whatever order
    named = {"c": ("m2", "m0"), "a": "m1+m0", "b": "m1+m2"}
    assert vc.agreement(vc.exact(lm, task, units=named, **QUIET), one).r == pytest.approx(1)
    other = vc.agreement(vc.exact(lm, task, units=["m0+m1", "m0+m2", "a0.h0+m1"], **QUIET), one)
    assert len(other.names) == 2
    assert vc.scores.stability(one, top=1, draws=20).probability.sum() == pytest.approx(1)


def test_a_window_of_layers_is_its_layers(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    windows = ["m0-2", "a0-1.h2@1-3", "r1-2@-1", "a0-2", "a0.h0+m1-2@3"]
    written = ["m0+m1+m2", "a0.h2+a1.h2@1-3", "r1+r2@-1", "a0+a1+a2", "a0.h0+m1+m2@3"]
    ours, theirs = (vc.exact(lm, task, units=units, ablation="zero", **QUIET) for units in (windows, written))
    assert torch.equal(ours.values, theirs.values)
    assert ours.units.names[:4] == windows[:4] and theirs.units.names[0] == written[0]
    one, other = (vc.exact(lm, task, units=units, **QUIET).values for units in ("m0-2", written[:1]))
    assert torch.equal(one, other)
    for wrong, says in (("m2-0", "smaller comes first"), ("m1-9", "m3"), ("m1-1", "no window"), ("y0-2", "y0-2")):
        with pytest.raises(UnitError, match=says):
            vc.exact(lm, task, units=[wrong], **QUIET)
