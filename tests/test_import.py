"""`import veracausa` takes no time, and every public name is there when it is asked for."""

import os
import subprocess
import sys

import pytest

import veracausa as vc

PUBLIC = [
    "Agreement", "Circuit", "Method", "Model", "Receipt", "Scores", "Stability", "Task", "Units", "Until",
    "VeracausaError", "agreement", "attribute", "compare", "curve", "errors", "exact", "faithfulness",
    "learn_mask", "load", "load_circuit", "load_scores", "select", "stability", "study", "task", "tasks", "verify",
]  # fmt: skip


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["veracausa", "veracausa.errors", "veracausa.cli.app", "veracausa.tasks"])
def test_import_brings_no_heavy_library(module):
    heavy = python(f"import sys, {module}; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])")
    assert heavy.strip() == "[]"


def test_import_takes_no_time():
    """Under 0.3 s beside the interpreter's own start; in one of three tries, because the machine may be busy."""
    code = "import time; t = time.perf_counter(); import veracausa; print(time.perf_counter() - t)"
    assert any(float(python(code)) < 0.3 for _ in range(3))


def test_the_library_itself_takes_under_a_second_and_a_half():
    """Everything of ours, beside torch's and transformers' own time (scipy and pandas included)."""
    code = (
        "import time, torch, transformers, transformers.modeling_utils, transformers.cache_utils\n"
        "t = time.perf_counter(); import veracausa as vc\n"
        "vc.load, vc.exact, vc.attribute, vc.agreement, vc.tasks, vc.load_scores\nprint(time.perf_counter() - t)"
    )
    assert any(float(python(code)) < 1.5 for _ in range(3))  # the first will do, unless the machine is busy


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name):
    assert getattr(vc, name) is not None


def test_public_names_are_listed():
    assert set(PUBLIC) <= set(dir(vc)) and set(PUBLIC) <= set(vc.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'exacto'"):
        _ = vc.exacto


@pytest.mark.parametrize("first", ["vc.agreement", pytest.param("vc.Agreement", marks=pytest.mark.slow)])
def test_study_is_the_function_whatever_was_used_before(first):
    assert python(f"import veracausa as vc; {first}; print(callable(vc.study), vc.study.__name__)").split() == [
        "True", "study",
    ]  # fmt: skip


def test_every_error_is_a_veracausa_error():
    kinds = [kind for kind in vars(vc.errors).values() if isinstance(kind, type) and not issubclass(kind, Warning)]
    assert len(kinds) > 10 and all(issubclass(kind, vc.VeracausaError) for kind in kinds)
