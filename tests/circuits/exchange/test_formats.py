"""One way in and one way out for circuits: which format is meant, what it needs, what is refused."""

import json

import numpy as np
import pytest

import veracausa as vc
from veracausa.errors import CircuitError, FileError, MethodError


@pytest.fixture(scope="module")
def lm(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def task(task_of):
    return task_of(6, n=2)


@pytest.fixture(scope="module")
def circuit(lm, task):
    return vc.select(vc.attribute(lm, task, units="edges", method="eap", show_progress=False), n=30)


@pytest.mark.parametrize(
    ("name", "format", "model"),
    [
        ("c.json", None, False), ("c.graphml", None, False), ("c.csv", None, True), ("c.json", "eap", True),
        ("c.txt", "csv", True), ("c", "graphml", False), ("C.JSON", None, False), ("c.dat", "veracausa", False),
    ],
)  # fmt: skip
def test_there_and_back(lm, circuit, tmp_path, name, format, model):
    path = vc.circuits.write(circuit, tmp_path / name, format=format, lm=lm if format == "eap" else None)
    assert path == tmp_path / name
    told = None if format == "eap" else format  # EAP-IG's JSON is known by what it holds
    again = vc.circuits.read(str(path), lm if model else None, format=told)
    assert again.names == circuit.names
    np.testing.assert_allclose(again.importance, circuit.importance, rtol=1e-12)
    if model:
        with pytest.raises(CircuitError, match="which model it is about: give lm="):
            vc.circuits.read(path, format=told)


def test_neuronpedia_is_written_only(lm, task, circuit, tmp_path):
    path = vc.circuits.write(circuit, tmp_path / "n.json", format="neuronpedia", lm=lm, task=task, pair=1)
    assert {"metadata", "nodes", "links"} <= set(json.loads(path.read_text()))
    with pytest.raises(MethodError, match="only written"):
        vc.circuits.read(path, lm, format="neuronpedia")
    with pytest.raises(FileError):
        vc.circuits.read(path)


def test_a_circuit_of_another_model_is_refused(circuit, tiny, tmp_path):
    path = vc.circuits.write(circuit, tmp_path / "c.json")
    with pytest.raises(CircuitError):
        vc.circuits.read(path, tiny("gpt2"))


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"format": "graphm"}, MethodError, r"format='graphm' is not known\. Did you mean 'graphml'\?"),
        ({"format": "eap"}, CircuitError, "give lm="),
        ({"format": "neuronpedia"}, CircuitError, "give its task="),
        ({"task": True}, MethodError, "task= and positions= are for format='neuronpedia'"),
    ],
)
def test_what_does_not_fit_is_said(circuit, task, tmp_path, more, error, said):
    more = {key: task if value is True else value for key, value in more.items()}
    with pytest.raises(error, match=said):
        vc.circuits.write(circuit, tmp_path / "c.json", **more)
    with pytest.raises(MethodError, match=r"ends in \.json, \.graphml, \.csv"):
        vc.circuits.write(circuit, tmp_path / "c.pickle")
    assert not any(tmp_path.iterdir())
