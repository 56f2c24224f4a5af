"""Suggestions for misspelt names, and where they appear."""

import pytest

import veracausa as vc
from veracausa.errors import FileError, MethodError, TaskError, UnitError
from veracausa.loading.resolve import resolve
from veracausa.studies.levels import resolve_level
from veracausa.suggestions import closest, did_you_mean, not_known
from veracausa.tasks.registry import named
from veracausa.units.unit_names import require_names

MODELS = ["smollm2-135m", "gemma3-270m"]


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("smollm2", MODELS, "smollm2-135m"),
        ("SmolLM2-135M", MODELS, "smollm2-135m"),
        ("gemma", MODELS, "gemma3-270m"),
        ("head", ["mlps", "heads"], "heads"),
        ("atq", ["ig", "atp"], "atp"),
        ("subject_verb_agreement", ["subject-verb", "ioi"], "subject-verb"),
        ("gpt2", MODELS, None),
        ("distilgpt2", MODELS, None),
        ("a", ["atp", "ablate"], None),
        ("", MODELS, None),
        (3, MODELS, None),
    ],
)
def test_the_closest_name(name, known, meant):
    assert closest(name, known) == meant
    assert did_you_mean(name, known) == ("" if meant is None else f" Did you mean {meant!r}?")


def test_a_known_name_is_not_suggested():
    assert did_you_mean("heads", ["heads", "mlps"]) == ""
    assert not_known("how", "x", ["a", "b"]) == "how='x' is not known. Known: a, b."


@pytest.mark.parametrize(
    ("call", "kind", "meant"),
    [
        (lambda lm, task: named("ioii"), TaskError, "ioi"),
        (lambda lm, task: vc.tasks.build("capital", lm), TaskError, "capital-country"),
        (lambda lm, task: vc.tasks.build("ioi", lm, sead=3), TaskError, "seed"),
        (lambda lm, task: task.with_metric("logit-dif"), MethodError, "logit_diff"),
        (lambda lm, task: vc.exact(lm, task, units="mlp"), UnitError, "mlps"),
        (lambda lm, task: require_names("neuron@positions"), UnitError, "neurons"),
        (lambda lm, task: vc.exact(lm, task, ablation="zeros"), MethodError, "zero"),
        (lambda lm, task: vc.exact(lm, task, direction="noise"), MethodError, "noising"),
        (lambda lm, task: vc.attribute(lm, task, method="eapig"), MethodError, "eap-ig"),
        (lambda lm, task: vc.attribute(lm, task, method="ig", baseline="corrupt"), MethodError, "corrupted"),
        (lambda lm, task: vc.attribute(lm, task, method="ig", grid="gaus"), MethodError, "gauss"),
        (lambda lm, task: vc.compare(lm, task, methods=["atq"]), MethodError, "atp"),
        (lambda lm, task: vc.compare(lm, task, units=["head"]), UnitError, "heads"),
        (
            lambda lm, task: vc.behaviour.ablation_study(lm, task, units="a0.h0", ablations=["means"]),
            MethodError,
            "mean",
        ),
        (lambda lm, task: resolve_level("quik"), MethodError, "quick"),
    ],
)
def test_typos_are_answered_before_anything_runs(tiny, task_of, monkeypatch, call, kind, meant):
    lm, task = tiny("llama"), task_of()

    def run(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(lm.hf, "forward", run)
    with pytest.raises(kind, match=rf"Did you mean '{meant}'\?"):
        call(lm, task)


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2-135M", "gemma3", "gemma3-270m-it"])
def test_a_misspelt_model_is_answered_without_asking_the_hub(monkeypatch, tmp_path, name):
    monkeypatch.setattr("veracausa.loading.hub.require_reachable", lambda repo: pytest.fail("the hub was asked"))
    with pytest.raises(FileError, match=r"Did you mean '(smollm2-135m|gemma3-270m)'\?.*owner/"):
        resolve(name, cache_dir=tmp_path)


def test_names_are_read_without_a_model():
    for units in ("heads", "neurons@positions", "edges", "a3.h0", ["a3.h0@7", "a1.h2@7"], ["input->a0.h0<q>"], "attn"):
        require_names(units)
    for units in ("head", "heads@5", ["heads", "mlps"], "a3.x", "m1.n", ["a3.h0@"], "r"):
        with pytest.raises(UnitError):
            require_names(units)
