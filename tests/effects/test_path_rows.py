"""Paths: against a naive run with plain hooks, edges, units, closed forms, and what is refused.

Tolerance: 1e-9 of the gap in float64 (conftest.EXACT).
"""

import contextlib
import dataclasses
import random

import naive_path_patching as naive
import numpy as np
import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.anatomy.graph import Graph
from veracausa.errors import MethodError, UnitError
from veracausa.scores.files import unpack_paths
from veracausa.units.every_unit import all_edges
from veracausa.units.path_names import are_paths, is_path, parse_path
from veracausa.units.paths import Paths
from veracausa.units.unit_names import require_names

QUIET = {"show_progress": False}
FEW = ("llama", "gpt_neox", "gemma2")
PATHS = [
    "a0.h1->a1.h2<q>->logits",
    "a0.h1->a1.kv0<v>->a2.h0<k>->logits",
    "a0.h1->m1->a2.h0<k>->logits",
    "a0.h1->a1.h2<v>+a2.h0<q>",  # readers of which one feeds the other, all live behind them
    "a0.h1->a1.h2<v>+a2.h0<q>->logits",
    "m0->a1.h1<q>+a1.h1<k>+a2.h1<q>+m2",
    "a0.h1+a0.h2->m1+a2.h2",
    "a0.h1->...->a2.h3<q>->logits",
    "a0.h2->...->a1.kv0<v>+a1.h0<q>->m2->logits",
    "m0->...->a2.kv1<k>+a2.h0<q>->logits",
    "m0->...->a1.h1+a1.h3<v>->...->a2.h0<k>",
    "input->...->a1.h1->...->logits",
    "input->...->m1->...->m2->logits",
    "input->m0->...->a1.h1->a2.h2->logits",
    "a0.h1->a1.h1->...->a2.h1<v>->logits",
    "a0.h0->...->m2",
    "m2->...->logits",
    "a2.h1->...->logits",
    "a0.h1->a1.h2<q>@5+a2.h1<v>@-3--2->logits",
    "m0@4-5->a1.h2->m1@-1",
    "input@2-5->a1.h2<k>@2-5+m1@-4--1->...->a2.h0",
]
#: In families whose MLPs read what their block's attention reads, these cannot be.
SEQUENTIAL = ["a1.h0->m1->logits", "a0.h3->m0->a1.h0<q>+m1->a2.h1->m2->logits", "m0@4-5->a1.h2->m1@-1"]


def paths_of(family):
    if family == "gpt_neox":
        return [path for path in PATHS if path not in SEQUENTIAL]
    return list(dict.fromkeys([*PATHS, *SEQUENTIAL]))


def named(paths):
    """Also single edges as paths."""
    return {f"{i}": path for i, path in enumerate(paths)}


def exact(lm, task, units, **options):
    return vc.exact(lm, task, units=units, **QUIET, **options)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_paths_are_what_hooks_on_whole_runs_give(tiny, task_of, agree, family, direction):
    lm, task = tiny(family), task_of((6, 8), n=2)
    paths = paths_of(family)
    scores = exact(lm, task, paths, direction=direction)
    values = naive.effects(lm, task, paths, direction=direction)
    agree(scores.values, values, scores.gap)
    assert (values.abs().mean(0) > 1e-6).all()  # otherwise anything agrees


def drawn(lm, rng):
    """A random text that may be a path."""

    def reader(first):
        layer, head, group = rng.randrange(first, lm.layers), rng.randrange(lm.heads), rng.randrange(lm.kv_heads)
        stem = rng.choice([f"m{layer}", f"a{layer}.h{head}", f"a{layer}.h{head}<q>", f"a{layer}.h{head}<v>",
                           f"a{layer}.kv{group}<k>"])  # fmt: skip
        return stem + rng.choice(["", "", "", "@3", "@2-5", "@-1", "@-4--2"])

    text, first = rng.choice(["input", "m0", "a0.h1", "a1.h0@2-6"]), 0
    for _ in range(rng.randrange(1, 4)):
        first = min(first + rng.randrange(2), lm.layers - 1)
        parts = "+".join(reader(first) for _ in range(rng.choice([1, 1, 2, 3])))
        text += rng.choice(["->", "->", "->...->"]) + parts
    return text + rng.choice(["", "->logits", "->logits"])


@pytest.mark.parametrize("family", FEW)
def test_random_paths(tiny, task_of, agree, family):
    layers = {"num_hidden_layers": 5}
    if family == "gemma2":
        layers["layer_types"] = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
    lm, task, rng, paths = tiny(family, **layers), task_of(8, n=1, seed=5), random.Random(3), {}
    while len(paths) < 15:
        with contextlib.suppress(UnitError):
            text = drawn(lm, rng)
            paths.setdefault(parse_path(lm.graph, text).key, text)
    scores = exact(lm, task, named(paths.values()))
    agree(scores.values, naive.effects(lm, task, paths.values()), scores.gap)
    assert (scores.values != 0).sum() > 10


@pytest.mark.parametrize("family", FEW)
def test_senders_that_write_nothing(tiny, task_of, agree, family):
    """A stream of zeros, whose norm is anything, is no test."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    paths = [path for path in paths_of(family) if "input->..." not in path]
    scores = exact(lm, task, paths, ablation="zero")
    agree(scores.values, naive.effects(lm, task, paths, ablation="zero"), scores.gap)


@pytest.mark.parametrize("family", FEW)
def test_metrics_read_elsewhere(tiny, task_of, agree, family):
    """At several positions of each prompt; and nothing is cut off before the first of them."""
    lm, base = tiny(family), task_of((6, 8), n=2)
    several = dataclasses.replace(base, read=tuple((n - 4, n - 2) for n in base.lengths), over="sum")
    early = dataclasses.replace(base, read=tuple((n - 3,) for n in base.lengths))
    for task, direction in ((several, "noising"), (early, "denoising")):
        scores = exact(lm, task, paths_of(family), direction=direction)
        wanted = naive.effects(lm, task, paths_of(family), direction)
        torch.testing.assert_close(scores.values, wanted, rtol=0, atol=1e-9)
        edges = exact(lm, task, all_edges(lm)[::7])
        torch.testing.assert_close(exact(lm, task, named(edges.units.names)).values, edges.values, rtol=0, atol=1e-9)


def test_prompts_without_a_counterpart(tiny, task_of, agree):
    lm, pairs = tiny("llama"), task_of((6, 8), n=2)
    task, paths = dataclasses.replace(pairs, corrupted=()), ["a0.h1->a1.h2<q>->logits", "m0->...->a2.h1"]
    agree(exact(lm, task, paths, ablation="zero").values, exact(lm, pairs, paths, ablation="zero").values, 1.0)
    with pytest.raises(MethodError, match="needs the corrupted prompts"):
        exact(lm, task, paths)


@pytest.mark.parametrize("options", [{}, {"direction": "denoising"}, {"ablation": "zero"}])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_one_arrow_is_the_edge(tiny, task_of, agree, family, options):
    lm, task = tiny(family), task_of((5, 7), n=2)
    edges = exact(lm, task, all_edges(lm)[::3], **options)
    paths = exact(lm, task, {f"one {name}": name for name in edges.units.names}, **options)
    assert paths.units.kind == "paths" and paths.units.names[0].startswith("one ")
    agree(paths.values, edges.values, edges.gap)


@pytest.mark.parametrize("family", FEW)
def test_one_arrow_to_one_position_is_that_edge(tiny, task_of, agree, family):
    lm, task = tiny(family), task_of((5, 7), n=2)
    chosen = [name for name in all_edges(lm, 7).names[3::29] if "logits" not in name]
    edges = exact(lm, task, chosen)
    agree(exact(lm, task, dict(zip(chosen, chosen, strict=True))).values, edges.values, edges.gap)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_every_way_through_a_node_is_the_node(tiny, task_of, agree, family, direction):
    """It gets what it has in the other run, and all that comes after it follows; with a post-norm, too."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    for kind in ("heads", "mlps"):
        nodes = exact(lm, task, kind, direction=direction)
        paths = exact(lm, task, [f"input->...->{name}->...->logits" for name in nodes.units.names], direction=direction)
        agree(paths.values, nodes.values, nodes.gap)
        assert paths.units.names[0] == f"input->...->{nodes.units.names[0]}"


@pytest.mark.parametrize("family", tiny_models.mostly_slow(tiny_models.FAMILIES))
def test_every_way_from_a_sender_is_its_write(tiny, task_of, agree, family):
    """All ways from the input are the whole gap; a head's write is its value where no norm stands behind it."""
    lm, task = tiny(family), task_of((6, 8), n=2)
    whole = exact(lm, task, ["input->...->logits"], direction="denoising")
    agree(whole.values[:, 0], whole.gap, whole.gap)
    agree(exact(lm, task, ["input->...->logits"]).values[:, 0], -whole.gap, whole.gap)
    for kind in ("mlps",) if family.startswith("gemma") else ("heads", "mlps"):
        nodes = exact(lm, task, kind)
        agree(exact(lm, task, [f"{name}->...->logits" for name in nodes.units.names]).values, nodes.values, nodes.gap)


@pytest.mark.parametrize("family", FEW)
def test_ways_add_up_where_the_logits_are_linear(tiny, task_of, agree, family):
    """Without a final norm and soft cap the changes of several chains into the logits are a sum."""
    lm, task = tiny(family, fresh=True), task_of((6, 8), n=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm.decoder.final_norm, "forward", lambda x: x)
        patch.setattr(lm.hf.config, "final_logit_softcapping", None, raising=False)
        lm = vc.model.Model(lm.hf, None, lm.name, lm.name, vc.anatomy.decoder_of(lm.hf))
        seen = [f"a{layer}.h{head}" for layer in (1, 2) for head in range(lm.heads)] + ["m1", "m2"]
        if family != "gpt_neox":
            seen = ["m0", *seen]
        found = exact(
            lm, task, ["a0.h1->a1.h2+a1.h3+m2->logits", *(f"a0.h1->{one}->logits" for one in ("a1.h2+a1.h3", "m2")),
                       "a0.h1->...->logits", f"a0.h1->{'+'.join(seen)}"]
        )  # fmt: skip
        together, heads, mlp, every, all_but_direct = found.values.T
        direct = exact(lm, task, ["a0.h1->logits"]).values[:, 0]
        agree(together, heads + mlp, found.gap)
        agree(every, all_but_direct + direct, found.gap)


@pytest.mark.cases(2)
@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("options", [{"rows": 1}, {"rows": 7}, {"share_prefix": False}])
def test_chunks_and_the_prefix_change_nothing(tiny, task_of, agree, family, options):
    lm, task = tiny(family), task_of((6, 8), n=3)
    scores = exact(lm, task, paths_of(family))
    agree(exact(lm, task, paths_of(family), **options).values, scores.values, scores.gap)


def test_one_order_of_paths_or_another(tiny, task_of, agree):
    """Whatever else travels in the run."""
    lm, task = tiny("llama"), task_of((6, 8), n=3)
    scores = exact(lm, task, PATHS)
    shuffled = np.random.default_rng(0).permutation(len(PATHS))
    agree(exact(lm, task, scores.units[shuffled]).values, scores.values[:, shuffled], scores.gap)
    agree(exact(lm, task[1], scores.units).values[0], scores.values[1], scores.gap)
    for i in range(3, len(PATHS), 4):
        agree(exact(lm, task, PATHS[i]).values[:, 0], scores.values[:, i], scores.gap)


@pytest.mark.parametrize("family", FEW)
def test_heads_behind_the_users_hook(tiny, task_of, agree, family):
    """What a hook on the output projection makes of z counts, as it does for edges and units."""
    lm, task = tiny(family, fresh=True), task_of((6, 8), n=2)
    scale = torch.linspace(0.5, 2, lm.heads * lm.decoder.head_dim, dtype=torch.float64)
    handle = lm.decoder.blocks[1].attention_out.register_forward_pre_hook(lambda _, args: (args[0] * scale,))
    try:
        edges = exact(lm, task, [f"a0.h1->a1.{one}" for one in ("h2<q>", "kv0<v>", "kv1<k>")])
        agree(exact(lm, task, named(edges.units.names)).values, edges.values, edges.gap)
        node = exact(lm, task, ["a1.h2"])
        agree(exact(lm, task, "input->...->a1.h2->...->logits").values, node.values, node.gap)
    finally:
        handle.remove()


@pytest.mark.cases(1)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(tiny, task_of, dtype):
    exactly, lm = tiny("llama"), tiny("llama", fresh=True, dtype=dtype)
    task = task_of((6, 8), n=3)
    scores, wanted = exact(lm, task, PATHS), exact(exactly, task, PATHS)
    size = float(wanted.gap.abs().mean())
    off = (scores.values.double() - wanted.values).abs().max() / size
    assert off < (1e-4 if dtype == torch.float32 else 0.2)
    edges = exact(lm, task, ["a0.h1->a1.h2<q>", "m0->m2"])
    paths = exact(lm, task, {"q": "a0.h1->a1.h2<q>", "m": "m0->m2"})
    assert (paths.values - edges.values).abs().max() / size < (1e-5 if dtype == torch.float32 else 0.05)


@pytest.mark.slow
def test_what_it_costs_is_forecast(tiny, task_of):
    for family in FEW:
        lm, task = tiny(family), task_of((6, 8), n=3)
        for how in ({}, {"ablation": "zero"}):
            paths = [path for path in paths_of(family) if "@" not in path]
            scores, work = exact(lm, task, paths, **how), vc.exact.work(lm, task, units=paths, **how)
            assert work.tokens() == scores.cost.token_layers == work.beside() + work.costs().sum()
            # at most, where something may not differ at the positions of one pair or another
            most = vc.exact.work(lm, task, units=paths_of(family), **how).tokens()
            assert exact(lm, task, paths_of(family), **how).cost.token_layers <= most
    found = vc.forecast(vc.exact, lm, task, units=paths_of(family))
    assert "paths" in repr(found)


def test_cost_in_token_layers(tiny):
    """n = 6, L = 3, first difference at 2, S = 4; a chain costs its readers, a stream the blocks it goes through."""
    lm = tiny("llama")
    task = vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))

    def cost(*paths):
        return exact(lm, task, named(paths)).cost.forward - base

    base = exact(lm, task, {"no": "input->logits"}).cost.forward
    for edges in (["a0.h0->a1.h0<q>", "a0.h0->a1.kv0<v>"], ["a0.h0->m1"], ["a0.h0->logits"]):
        assert cost(*edges) == exact(lm, task, edges).cost.forward - base
    assert cost("a0.h0->a1.h0<q>->m1->a2.h0->logits") == 3 * 4
    assert cost("a0.h0->a1.h0<q>->logits", "a0.h0->a1.h1<q>->logits", "a0.h0->a1.h0<q>->m1->logits") == (1 + 1) * 4
    assert cost("m0->...->a2.h0<q>->logits", "m0->...->a2.h1<q>->logits") == (1 + 1) * 4  # block 1, then the reader
    assert cost("m0->...->m2") == (2 + 1) * 4 and cost("m0->...->logits") == 2 * 4
    assert cost("a0.h0->...->m0->logits") == 1 * 4  # read where it is written: nothing lies between
    assert cost("a0.h0->a1.h0<q>+a2.h0<q>") == (1 + 2 + 1) * 4  # both readers; blocks 1 and 2


def test_what_does_not_move_costs_nothing(tiny, task_of):
    """The prompts' last tokens agree, so nothing comes from there; nor from before the first difference."""
    lm = tiny("llama")
    task = vc.Task("hand", ((1, 2, 3, 4, 5, 6),), ((1, 2, 9, 4, 5, 6),), ((7,),), ((8,),))
    still = ["input->logits", "input@5->m0->logits", "input@1->...->logits", "a0.h1->a1.h1<q>@1->logits"]
    scores = exact(lm, task, named(still))
    assert (scores.values == 0).all()
    assert scores.cost.forward == exact(lm, task, ["input->logits"]).cost.forward


def test_positions(tiny, task_of):
    lm, task = tiny("llama"), task_of((6, 9), n=4)
    scores = exact(lm, task, ["a0.h1->m1@6-8->logits", "a0.h1@-7->m2"])
    short = torch.tensor([n == 6 for n in task.lengths])
    assert scores.values[short].isnan().all() and scores.values[~short].isfinite().all()
    ends = exact(lm, task, ["a0.h1->a2.h0<q>@-1->logits", "m0->a1.h1<v>@-3--2"])
    for i, n in enumerate(task.lengths):
        own = exact(lm, task[i : i + 1], [f"a0.h1->a2.h0<q>@{n - 1}->logits", f"m0->a1.h1<v>@{n - 3}-{n - 2}"])
        torch.testing.assert_close(ends.values[i : i + 1], own.values, rtol=1e-10, atol=1e-12)


#: Where pairs have their spans; some lack one.
WHERE = [{"subject": (2, 4), "verb": (4, 5)}, {"subject": (3, 5)}, {"subject": (4, 6), "verb": (2, 4)}]


@pytest.mark.cases(1)
@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_spans_are_the_positions_where_the_patched_prompt_has_them(tiny, task_of, direction):
    lm, plain = tiny("llama"), task_of((6, 8), n=3)
    paths = ["a0.h1->a1.h2<q>@{subject}+m1@-1->a2.h1->logits", "m0->a1.h1@{verb}", "a0.h1@{subject}->...->m2@{verb}"]
    task = dataclasses.replace(plain, spans=tuple(WHERE))
    asked = [path.format(subject="subject", verb="verb") for path in paths]
    scores, work = exact(lm, task, asked, direction=direction), vc.exact.work(lm, task, units=asked)
    assert scores.units.names == asked and "pairs" in scores.table()
    assert work.tokens() >= scores.cost.token_layers
    for i, where in enumerate(WHERE):
        here = {name: f"{first}-{end - 1}" for name, (first, end) in where.items()}
        for u, path in enumerate(paths):
            if "{verb}" in path and "verb" not in where:
                assert scores.values[i, u].isnan()
            else:
                own = exact(lm, plain[i : i + 1], path.format(**here), direction=direction)
                torch.testing.assert_close(scores.values[i, u], own.values[0, 0], rtol=1e-10, atol=1e-12)
    assert (scores.values.nan_to_num() != 0).any(0).all()


def test_spans_that_move(tiny, task_of):
    """A reader sees the change where the patched prompt has the span; a sender's two writes don't correspond."""
    lm, plain = tiny("llama"), task_of(8, n=2)
    task = dataclasses.replace(plain, spans=({"it": [(3, 5), (4, 6)]}, {"it": [(2, 5), (1, 4)]}))
    for direction, own in (("noising", ("3-4", "2-4")), ("denoising", ("4-5", "1-3"))):
        found = exact(lm, task, "a0.h1->a1.h2<v>@it->logits", direction=direction).values[:, 0]
        for i, where in enumerate(own):
            alone = exact(lm, plain[i : i + 1], f"a0.h1->a1.h2<v>@{where}->logits", direction=direction)
            torch.testing.assert_close(found[i], alone.values[0, 0], rtol=1e-10, atol=1e-12)
    with pytest.raises(UnitError, match="two writes there do not correspond"):
        exact(lm, task, "a0.h1@it->m1->logits")
    assert exact(lm, task, "a0.h1@it->m1->logits", ablation="zero").values.isfinite().all()
    with pytest.raises(UnitError, match="has no span 'them'"):
        exact(lm, task, "a0.h1->m1@them->logits")


def test_names_read_back_as_themselves(tiny):
    for family in FEW:
        lm = tiny(family)
        for text in paths_of(family):
            path = parse_path(lm.graph, text)
            assert parse_path(lm.graph, path.name) == path
            assert parse_path(lm.graph, f"  {text.replace('->', ' -> ').replace('+', ' + ')} ") == path
    graph, grouped = Graph(12, 12, 12), Graph(12, 8, 2)

    def name(text, graph=graph):
        return parse_path(graph, text).name

    assert name("a5.h5 -> a8.h6<v> + a9.h9<q>") == "a5.h5->a8.kv6<v>+a9.h9<q>"  # the name that the edge has
    assert name("a5.h5->a8.h6<v>", grouped) == "a5.h5->a8.h6<v>"  # one of four that share it
    assert name("a5.h5 -> … -> a9.h9 -> ... -> logits") == "a5.h5->...->a9.h9"  # as every path goes on
    assert name("a5.h5->...->logits") == "a5.h5->...->logits"
    assert name("m3@end->m4@-3--1->logits") == "m3@-1->m4@-3--1->logits"
    keys = [parse_path(grouped, one).key for one in ("m0->a1.kv1<k>", "m0->a1.h5<k>+a1.h4<k>+a1.h7<k>+a1.h6<k>")]
    assert keys[0] == keys[1]


def test_what_reads_like_a_path():
    yes = ("a0.h1->m1->logits", "a0.h1->m1+m2", "a0.h1->...->logits", "a0.h1->a1.h2<v>", "a0.h1->a1.h2", "m0@3->m1",
           "m0->m1@2-3", "m0->m1@-1", "m0->m1@end", " a0.h1 -> m1 -> logits ")  # fmt: skip
    no = ("a0.h1->m1", "a0.h1->a1.h2<q>@7", "a0.h1->a1.kv0<v>", "m0+m1", "heads", "edges", "m0@1-2", "->", "")
    assert all(map(is_path, yes)) and not any(map(is_path, no))
    assert are_paths({"x": "m0->m1"}) and are_paths(["m0->m1", "m0->m1+m2"]) and are_paths([("m0->m1", "m0->m2")])
    assert not any(map(are_paths, ({"x": "m0+m1"}, ["m0->m1"], [("m0", "m1")], "heads", 3, [3])))


def test_tables_files_and_charts(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of((6, 8), n=2)
    scores = exact(lm, task, PATHS)
    again = vc.open(scores.save(tmp_path / "paths.safetensors"))
    assert torch.equal(again.values, scores.values) and again.units.names == scores.units.names
    assert again.units.digest() == scores.units.digest() and again.units.paths == scores.units.paths
    table = scores.table()
    assert list(table.columns[:3]) == ["name", "sender", "layer"] and table["sender"][0] == "a0.h1"
    assert "21 paths" in repr(scores) and "path" in scores.sentences[0]
    called = exact(lm, task, {"chain": PATHS[0], "late": PATHS[3]})
    assert called.units.names == ["chain", "late"] and called.table()["path"][0] == PATHS[0]
    assert vc.open(called.save(tmp_path / "named.safetensors")).units.names == ["chain", "late"]
    assert called.units[[1]].names == ["late"]
    torch.testing.assert_close(called.values, scores.values[:, [0, 3]], rtol=0, atol=1e-10)
    # by what they mean, whatever they are called
    three = exact(lm, task, {"c": PATHS[4], "b": PATHS[0], "a": PATHS[3]})
    assert vc.agreement(three, exact(lm, task, [PATHS[0], PATHS[3], PATHS[4]])).r == pytest.approx(1)
    scores.chart().save(str(tmp_path / "paths.html"))


def test_an_interrupted_call_goes_on(tiny, task_of, tmp_path, monkeypatch):
    lm, task = tiny("llama"), task_of((6, 8), n=3)
    whole = exact(lm, task, PATHS)

    class Killed(Exception):
        pass

    from veracausa.effects.path_rows import PathRows

    chunk, left = PathRows.chunk, [3]

    def dying(*args, **how):
        left[0] -= 1
        if not left[0]:
            raise Killed
        return chunk(*args, **how)

    monkeypatch.setattr(PathRows, "chunk", dying)
    with pytest.raises(Killed):
        exact(lm, task, PATHS, rows=20, out=tmp_path)
    monkeypatch.setattr(PathRows, "chunk", chunk)
    again = exact(lm, task, PATHS, rows=20, out=tmp_path)
    torch.testing.assert_close(again.values, whole.values, rtol=0, atol=1e-9)
    other = exact(lm, task, PATHS[::-1], out=tmp_path)  # other paths find nothing of these
    torch.testing.assert_close(other.values, whole.values.flip(1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ("a1.h0->a0.h1<q>->logits", "a1.h0 writes to the stream only behind what a0.h1<q> reads"),
        ("a0.h1->a1.h0<q>->a1.h1<k>", "a1.h0<q> writes to the stream only behind what a1.h1<k> reads"),
        ("m1->a0.h0+m2->logits", "m1 writes to the stream only behind what a0.h0 reads"),
        ("a0.h1->m1+a2.h0<q>->a2.h1<k>->logits", "make two paths where one of several is earlier"),
        ("a0.h1->...->m1+a2.h0<q>->logits", r"'\.\.\.' leads to m1\+a2\.h0<q>, one of which lies on ways to another"),
        ("a0.h1+a1.h1->...->logits", r"'\.\.\.' starts from a0\.h1\+a1\.h1, one of which"),
        ("a0.h1->wheel->logits", "'wheel' is no part of a path"),
        ("a0.h1->a1.h9<q>->logits", "there is no a1.h9<q>; block 1 has 4 heads and 2 key/value heads"),
        ("a0.h1->a1.kv2<v>->logits", "there is no a1.kv2<v>"),
        ("a0.h1->a1.kv1<q>->logits", "has a key and a value alone"),
        ("a0.h1->a1.kv1->logits", "has a key and a value alone"),
        ("a0.h1->m7->logits", "there is no m7; layers are 0 … 2"),
        ("a0.h1->a1.h01<q>->logits", "is no part of a path"),
        ("a0.h1<q>->m1->logits", "a0.h1<q> sends nothing"),
        ("logits->m1->logits", "logits sends nothing"),
        ("a0.h1->input->logits", "input reads nothing"),
        ("a0.h1->logits->m2", "logits end a path"),
        ("a0.h1->m1+logits", "logits end a path"),
        ("a0.h1->m1->logits@3", "read at the last position alone"),
        ("a0.h1->m1@5-3->logits", "'5-3' behind m1 are no positions"),
        ("a0.h1->m1@sub ject->logits", "'sub ject' behind m1 are no positions"),
        ("a0.h1->m1@->logits", "'' behind m1 are no positions"),
        ("a0.h1->m1@9->logits", "no prompt of this task has all its positions; the longest has 6 tokens"),
        ("a0.h1->m1@-7->logits", "no prompt of this task has all its positions"),
        ("a0.h1->m1+m1", "names m1 twice"),
        ("a0.h1->a1.kv0<v>+a1.h1<v>", "names a1.kv0<v> and a1.h1<v>, which overlap"),
        ("a0.h1->a1.h1+a1.h1<q>", "names a1.h1 and a1.h1<q>, which overlap"),
        ("a0.h1->m1@3+m1@2-4", "which overlap"),
        ("a0.h1+a0.h1->m1", "names a0.h1 twice"),
        ("a0.h1->...->...->logits", "nothing between two"),
        ("...->m1->logits", "an arrow leads from a part to a part"),
        ("a0.h1->m1->...", "an arrow leads from a part to a part"),
        ("a0.h1->->logits", "an arrow leads from a part to a part"),
        ("a0.h1->m1->", "an arrow leads from a part to a part"),
        (["a0.h1->m1->logits", "a0.h1 -> m1 -> logits"], "Paths are listed twice"),
        (["a0.h1->m1+m2", "a0.h1->m2+m1"], "Paths are listed twice"),
        (["a0.h1->m1->logits", "m1"], "mixes paths with 'm1'"),
        ([("a0.h1->m1", "a0.h1->m2")], "a path is one text, not a list. Join readers"),
        ({"x": "a0.h1->m1", "y": "m2"}, "mixes paths with 'm2'"),
    ],
)
def test_what_is_no_path(tiny, task_of, units, message):
    with pytest.raises(UnitError, match=message):
        exact(tiny("llama"), task_of(6, n=2), units)


def test_families_with_parallel_blocks_have_no_way_from_a_head_to_its_mlp(tiny, task_of):
    lm, task = tiny("gpt_neox"), task_of(6, n=2)
    with pytest.raises(UnitError, match=r"a1\.h0 writes to the stream only behind what m1 reads"):
        exact(lm, task, "a1.h0->m1->logits")
    assert exact(lm, task, "m0->a1.h0+m1->logits").values.isfinite().all()


def test_tables_that_are_wrong(tiny, task_of):
    lm, task = tiny("llama"), task_of(6)
    with pytest.raises(UnitError, match="layers=5"):
        exact(lm, task, Paths.of(Graph(5, 2, 2), ["m0->m1->logits"]))
    with pytest.raises(UnitError, match="empty"):
        exact(lm, task, Paths.of(lm.graph, ["m0->m1->logits"])[:0])
    with pytest.raises(UnitError, match="empty"):
        Paths.of(lm.graph, [])
    with pytest.raises(MethodError, match="reference= is for mean and resample"):
        exact(lm, task, PATHS[:1], reference=task)
    sizes = {"layers": 3, "heads": 4, "kv_heads": 2, "parallel": False}
    for listed in ([{"name": "x", "path": "m9->m1"}], [{"name": "x"}], [], [{"name": "x", "path": "m0->m1->"}]):
        with pytest.raises((ValueError, KeyError)):
            unpack_paths(listed, sizes)
    assert unpack_paths([{"name": "x", "path": PATHS[0]}], sizes).names == ["x"]


@pytest.mark.parametrize(
    "options",
    [{"ablation": "mean"}, {"ablation": "resample"}, {"ablation": "optimal"}, {"direction": "up"},
     {"ablation": "zero", "direction": "denoising"}],
)  # fmt: skip
def test_meaningless_options(tiny, task_of, options):
    with pytest.raises(MethodError):
        exact(tiny("llama"), task_of(6), PATHS[:1], **options)


def test_other_verbs_take_no_paths(tiny, task_of):
    lm, task = tiny("llama"), task_of(6, n=2)
    for verb in (vc.attribute, vc.effects.last_in, vc.effects.shapley, vc.effects.direct, vc.estimates.learn_mask):
        with pytest.raises(UnitError, match=r"only vc\.exact takes them"):
            verb(lm, task, units=PATHS[:1], **QUIET)
    with pytest.raises(UnitError, match="of two units or more"):
        vc.effects.interactions(lm, task, units=PATHS[:1], **QUIET)
    with pytest.raises(MethodError, match="Verify an estimate"):
        vc.verify(lm, task, exact(lm, task, PATHS[:1]), **QUIET)


def test_names_are_checked_before_a_model_is_loaded():
    require_names(["a5.h5 -> a8.h6<v> + a9.h9<q>", "a5.h5->...->logits", "a9.h6", "a9.h6->m10"])
    for wrong in ("a5.h5->wheel->logits", "a5.x->m3+m4"):
        with pytest.raises(UnitError, match="is no part of a path"):
            require_names([wrong])
