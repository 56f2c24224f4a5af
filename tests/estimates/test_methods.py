"""What can be combined and what cannot: refusals, presets, and every legal combination once."""

from itertools import product

import pytest
import torch

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.estimates.method import Method
from veracausa.estimates.methods import REFUSALS, resolve_method
from veracausa.estimates.parts import COMBINATIONS, PATHS, RULES
from veracausa.estimates.paths import WALKS
from veracausa.estimates.presets import EDGE_PRESETS, ESTIMATES, PAPERS, PRESETS
from veracausa.scores.estimands import BASELINES


def attribute(lm, task, units="queries", **options):
    return vc.attribute(lm, task, units=units, show_progress=False, **options)


# ---- refusals -------------------------------------------------------------------------------------------------------

#: Combinations that mean nothing (method, metric, direction), and words of the reason; grouped by `REFUSALS`' order.
MEANINGLESS = [
    (0, Method(), "neg_kl", "noising", ["KL", "clean run is zero", "ig"]),
    (0, Method(rule="gim"), "neg_kl", "noising", ["KL", "zero"]),
    (1, Method(baseline="zero"), "logit_diff", "denoising", ["restores clean values", "baseline='corrupted'"]),
    (1, Method(path="layer", baseline="mean"), "logit_diff", "denoising", ["restores clean values"]),
    *((2, Method(path=path, baseline="zero"), "logit_diff", "noising", ["ends at the other prompt", "path='layer'"])
      for path in ("inputs", "draws", "gradpath", "gradpath-complete", "geodesic")),
    (2, Method(path="inputs", baseline="mean"), "logit_diff", "noising", ["zero or a mean"]),
    (3, Method(combine="increments"), "logit_diff", "noising", ["single point", "combine='mean'"]),
    (3, Method(combine="left-increments"), "logit_diff", "noising", ["single point"]),
    (4, Method(path="gradpath", combine="increments"), "logit_diff", "noising", ["does not end", "gradpath-complete"]),
    (4, Method(path="gradpath", combine="left-increments"), "logit_diff", "noising", ["does not end"]),
    *((5, Method(path="inputs", combine="increments", grid=grid), "logit_diff", "noising", ["both ends", "trapezoid"])
      for grid in ("midpoint", "left", "right", "published")),
    (6, Method(path="inputs", combine="left-increments"), "logit_diff", "noising", ["left rule", "grid='trapezoid'"]),
    (6, Method(path="draws", combine="left-increments"), "logit_diff", "noising", ["left rule"]),
    (7, Method(path="inputs", rule="qk-exact", combine="increments"), "logit_diff", "noising", ["qk-exact", "pattern"]),
    (7, Method(path="layer", rule="qk-exact"), "logit_diff", "noising", ["qk-exact", "path of the queries"]),
    (7, Method(path="unit", rule="qk-exact+graddrop"), "logit_diff", "noising", ["qk-exact"]),
    (8, Method(path="inputs", rule="graddrop", combine="increments"), "logit_diff", "noising", ["graddrop"]),
    (8, Method(path="layer", rule="graddrop"), "logit_diff", "noising", ["graddrop", "combine='mean'"]),
    (8, Method(path="unit", rule="graddrop"), "logit_diff", "noising", ["graddrop"]),
]  # fmt: skip


@pytest.mark.parametrize(("which", "method", "metric", "direction", "words"), MEANINGLESS)
def test_a_combination_that_means_nothing(tiny, task_of, which, method, metric, direction, words):
    assert next(i for i, refusal in enumerate(REFUSALS) if refusal.applies(method, metric, direction)) == which
    with pytest.raises(MethodError) as caught:
        attribute(tiny("llama"), task_of(6, metric=metric), method=method, direction=direction)
    assert REFUSALS[which].because in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_every_refusal_is_tried():
    assert {which for which, *_ in MEANINGLESS} == set(range(len(REFUSALS)))
    assert len({refusal.because for refusal in REFUSALS}) == len(REFUSALS)


@pytest.mark.parametrize(("which", "method", "metric", "direction", "words"), MEANINGLESS)
def test_the_way_out_that_a_refusal_names_is_open(which, method, metric, direction, words):
    """One of the parts that a refusal advises, put in, is accepted."""
    ways = {
        0: [{"path": "layer", "combine": "increments", "rule": "plain"}],
        1: [{"baseline": "corrupted"}],
        2: [{"path": path} for path in ("layer", "unit", "point")],
        3: [{"combine": "mean"}],
        4: [{"path": "gradpath-complete"}],
        5: [{"grid": "trapezoid"}, {"grid": "gauss"}],
        6: [{"path": "inputs", "grid": "trapezoid"}],
        7: [{"combine": "mean", "path": path} for path in ("point", "inputs", "draws")],
        8: [{"combine": "mean", "path": path} for path in ("point", "inputs", "draws")],
    }[which]
    for way in ways:
        resolve_method(Method(**{**vars(method), **way}), metric, direction)


# ---- presets --------------------------------------------------------------------------------------------------------

#: The table of METHODS, section 3, as far as it scores nodes, and conductance, which is not in it: path, rule,
#: combination and, where they are named, grid and nodes.
TABLE = {
    "atp": ("point", "plain", "mean", {}),
    "atp-star": ("point", "qk-exact+graddrop", "mean", {}),
    "ig": ("layer", "plain", "increments", {"grid": "gauss"}),
    "eap-ig": ("inputs", "plain", "mean", {"grid": "published", "nodes": 5}),
    "eap-gp": ("gradpath", "plain", "mean", {"nodes": 5}),
    "gradpath-complete": ("gradpath-complete", "plain", "increments", {}),
    "conductance": ("inputs", "plain", "increments", {}),
    "ceap": ("inputs", "plain", "left-increments", {}),
    "expected-gradients": ("draws", "plain", "mean", {}),
    "gim": ("point", "gim", "mean", {}),
    "relp": ("point", "relp", "mean", {}),
    "geodesic-ig": ("geodesic", "plain", "increments", {}),
}


def test_presets_are_those_of_the_table():
    assert set(PRESETS) == set(TABLE)
    assert set(WALKS) == set(PATHS)
    assert set(PAPERS) == {*ESTIMATES, *EDGE_PRESETS, "ifr"}


@pytest.mark.parametrize("name", TABLE)
def test_a_preset(name):
    called, parts = resolve_method(name, "logit_diff", "noising")
    path, rule, combine, more = TABLE[name]
    assert (called, parts.path, parts.rule, parts.combine, parts.baseline) == (name, path, rule, combine, "corrupted")
    assert {key: getattr(parts, key) for key in more} == more
    assert parts.signed is (name != "atp-star")
    assert resolve_method(name, "logit_diff", "denoising")[1] == parts  # every preset goes both ways
    for metric in ("prob", "logprob", "prob_diff"):
        assert resolve_method(name, metric, "noising")[1] == parts


@pytest.mark.parametrize("name", [name for name, parts in PRESETS.items() if parts.path == "point"])
def test_point_presets_refuse_the_kl(name):
    with pytest.raises(MethodError, match="KL"):
        resolve_method(name, "neg_kl", "noising")
    resolve_method(name, "neg_kl", "denoising")


@pytest.mark.parametrize(("name", "instead"), [("eap", "atp"), ("eap-ig-activations", "ig")])
def test_a_name_of_edges_is_refused_for_nodes(tiny, task_of, name, instead):
    with pytest.raises(MethodError, match=f"{name}.*scores edges.*take '{instead}'"):
        attribute(tiny("llama"), task_of(6), method=name)
    assert instead in PRESETS and name not in PRESETS


def test_a_part_given_beside_a_preset_is_checked_with_it():
    assert resolve_method("ig", "logit_diff", "noising", nodes=3, grid="midpoint")[1].nodes == 3
    with pytest.raises(MethodError, match="both ends"):
        resolve_method("ceap", "logit_diff", "noising", grid="midpoint")
    with pytest.raises(MethodError, match="other prompt"):
        resolve_method("eap-ig", "logit_diff", "noising", baseline="zero")


# ---- every legal combination ----------------------------------------------------------------------------------------


def combinations():
    """All path × rule × combination × baseline of units that need no dictionary (see `test_encoded_path`)."""
    return product([path for path in PATHS if path != "encoded"], RULES, COMBINATIONS, BASELINES)


def made(path, rule, combine, baseline):
    """On a grid where as many as can be are legal; few nodes."""
    return Method(path, rule, combine, baseline, nodes=2, grid="trapezoid", descent=1)


def legal(parts):
    return not any(refusal.applies(made(*parts), "logit_diff", "noising") for refusal in REFUSALS)


LEGAL = [parts for parts in combinations() if legal(parts)]


@pytest.fixture(scope="module")
def constants(tiny, task_of):
    """Of the optimal baseline."""
    lm, task = tiny("llama"), task_of((5, 6, 6, 5), n=4, seed=4)
    return vc.effects.optimal_constants(lm, task, units="queries", most=0, show_progress=False)


@pytest.mark.parametrize(("path", "rule", "combine", "baseline"), LEGAL)
def test_a_legal_combination_gives_numbers(tiny, task_of, constants, path, rule, combine, baseline):
    method = made(path, rule, combine, baseline)
    lm, task = tiny("llama"), task_of((5, 6, 6, 5), n=4, seed=4)
    constants = constants if method.baseline == "optimal" else None
    scores = attribute(lm, task, method=method, constants=constants)
    assert scores.values.shape == (4, 12) and scores.values.isfinite().all()
    assert scores.values.abs().max() > 1e-3
    assert scores.signed is ("graddrop" not in method.rule)
    assert scores.signed or (scores.values >= 0).all()
    assert scores.method == f"{method.path} × {method.rule} × {method.combine}"
    promised = method.rule == "plain" and method.combine != "mean"
    if method.path in ("layer", "unit"):  # there all combinations are one sum, which is complete
        promised = method.rule == "plain"
    assert (scores.completeness is not None) is promised
    assert any("no completeness" in note for note in scores.notes) is not promised
    if method.drawn or method.baseline in ("corrupted", "resample"):  # the others stand in the same walks
        again = attribute(lm, task, method=method, constants=constants)
        assert torch.equal(again.values, scores.values)  # and the same numbers again


def test_all_paths_and_rules_and_combinations_have_a_legal_partner():
    for found, every in zip(zip(*LEGAL, strict=True), (PATHS, RULES, COMBINATIONS, BASELINES), strict=True):
        assert set(found) == set(every) - {"encoded"}


def test_graddrop_needs_another_layer(task_of):
    """With one layer there is no pass to average over; 0 for every unit would be a silent wrong number."""
    import tiny_models
    from bridges import as_model

    hf = tiny_models.make("llama", seed=1)
    hf.model.layers = hf.model.layers[:1]
    hf.config.num_hidden_layers = 1
    lm = as_model(hf, "llama")
    for method in ("atp-star", vc.Method(rule="graddrop")):
        with pytest.raises(MethodError, match="one layer"):
            vc.attribute(lm, task_of(6, n=1), method=method, show_progress=False)
