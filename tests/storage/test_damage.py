"""Damaged and hostile result files: an error of ours at loading, or a result that can be used; never a traceback.

`VERACAUSA_DAMAGE=300 pytest tests/storage/test_damage.py` tries as many files of every kind and way.
"""

import contextlib
import functools
import json
import os
import random
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch

import veracausa as vc
from veracausa.circuits.exchange.eap_json import read_eap_json, scores_from_eap_json, write_eap_json
from veracausa.circuits.exchange.graphml import read_csv, read_graphml, write_csv, write_graphml
from veracausa.counterfactuals.comparing_corruptions import corruptions
from veracausa.discovery.evaluation import Evaluation
from veracausa.errors import VeracausaError
from veracausa.storage.files import read_tensors, write_json, write_tensors
from veracausa.storage.pieces import Checkpoint

TRIES = int(os.environ.get("VERACAUSA_DAMAGE", "6"))
#: What is put in place of a value in a header.
HOSTILE = (
    None, True, -1, 0, 1, 7, 10**6, 2**31, 2**63, 10**400, -(10**400), 0.5, 1e308, float("inf"), float("-inf"),
    float("nan"), "", "x", "a0.h0", "=cmd|x", "\x00\x1b[31m", "é" * 100, [], {}, [[]], [None], ["x"], {"": {}},
    functools.reduce(lambda inner, _: [inner], range(600), []),
)  # fmt: skip


class Kind:
    """A kind of file: how it is written and read, and its ending."""

    def __init__(self, save, load, ending="safetensors"):
        self.save, self.load, self.ending = save, load, ending


@pytest.fixture(scope="module")
def kinds(tiny, task_of, tmp_path_factory):
    lm, task = tiny("llama"), task_of(6, n=2)
    quiet = {"show_progress": False}
    heads = vc.exact(lm, task, **quiet)
    edges = vc.attribute(lm, task, units="edges", method="eap", **quiet)
    atp = vc.attribute(lm, task, units="heads@positions", **quiet)
    circuit = vc.select(edges, n=40)
    other = replace(task, corrupted=tuple((*ids[:-1], (ids[-1] + 7) % tiny_models.VOCAB) for ids in task.clean))
    compared = corruptions(lm, {"one": task, "other": other}, units="heads", **quiet)
    constants = vc.effects.optimal_constants(
        lm, task, units=["a0.h0", "a1.h2"], learning=vc.effects.Learning(steps=1), **quiet
    )
    curve = vc.curve(lm, task, edges, sizes=(0.1, 1.0), **quiet)
    folder = tmp_path_factory.mktemp("pieces")
    surface = vc.causes.surface(lm, task, units=("a0.h0", "a1.h1"), alphas=(0, 1), out=folder, **quiet)
    (pieces,) = folder.iterdir()
    header = read_tensors(pieces, "veracausa-pieces-2")[0]["header"]

    def resume(path):
        path.rename(path.with_name(pieces.name))
        found = Checkpoint.open(path.parent, "surface", header, (2, 4), torch.float64)
        return found.values.sum(), found.cost + found.cost

    def copied(path):
        path.write_bytes(pieces.read_bytes())

    return {
        "scores": Kind(heads.save, vc.open),
        "positions": Kind(atp.save, vc.open),
        "edges": Kind(edges.save, vc.open),
        "receipt": Kind(vc.verify(lm, task, edges, top=3, sample=4, **quiet).save, vc.open),
        "circuit": Kind(circuit.save, vc.open, "json"),
        "task": Kind(task.save, vc.open, "json"),
        "constants": Kind(constants.save, vc.open),
        "surface": Kind(surface.save, vc.open),
        "responses": Kind(vc.causes.responses(lm, task, units=["a0.h0"], alphas=(0, 1), **quiet).save, vc.open),
        "locations": Kind(vc.causes.locate(lm, task, units=["a0.h0"], **quiet).save, vc.open),
        "ablation": Kind(
            vc.behaviour.ablation_study(lm, task, units=["a0.h0"], ablations=["zero"], **quiet).save, vc.open
        ),
        "comparison": Kind(compared.save, vc.open),
        "disagreement": Kind(vc.causes.disagreement(lm, task, units=["a0.h0"], nodes=2, zero_nodes=None, **quiet).save,
                             vc.open),
        "faithfulness": Kind(curve.signed[0].save, vc.open),
        "curve": Kind(curve.save, vc.open),
        "agreement": Kind(vc.agreement(vc.attribute(lm, task, **quiet), heads).save, vc.open),
        "stability": Kind(vc.scores.stability(heads, top=3, draws=4).save, vc.open),
        "circuit-stability": Kind(vc.circuits.stability(edges, n=20, draws=4).save, vc.open),
        "completeness": Kind(
            vc.circuits.completeness(lm, task, circuit, draws=2, greedy=1, candidates=1, **quiet).save, vc.open
        ),
        "minimality": Kind(vc.circuits.minimality(lm, task, circuit, sample=3, **quiet).save, vc.open),
        "tests": Kind(vc.circuits.tests(lm, task, circuit, draws=4, edges=3, **quiet).save, vc.open),
        "evaluation": Kind(
            Evaluation("other", task, 0, curve.signed[0], curve, curve.absolute[0], curve).save, vc.open
        ),
        "pieces": Kind(copied, resume),
        "graphml": Kind(lambda path: write_graphml(circuit, path), read_graphml, "graphml"),
        "eap": Kind(
            lambda path: write_eap_json(lm, path, circuit=circuit), lambda path: read_eap_json(path, lm), "json"
        ),
        "eap-scores": Kind(
            lambda path: write_eap_json(lm, path, scores=edges), lambda path: scores_from_eap_json(path, lm), "json"
        ),
        "csv": Kind(lambda path: write_csv(circuit, path), lambda path: read_csv(path, lm), "csv"),
    }  # fmt: skip


KINDS = (
    "scores", "positions", "edges", "receipt", "circuit", "task", "constants", "surface", "responses", "locations",
    "ablation", "comparison", "disagreement", "faithfulness", "curve", "agreement", "stability", "circuit-stability",
    "completeness", "minimality", "tests", "evaluation", "pieces", "graphml", "eap", "eap-scores", "csv",
)  # fmt: skip
TEXTS = ("circuit", "task", "graphml", "eap", "eap-scores", "csv")


def use(result):
    """Everything that a user does first with a result."""
    if isinstance(result, tuple):
        return
    repr(result)
    for name in ("describe", "table", "_repr_html_", "means"):
        if callable(getattr(result, name, None)):
            getattr(result, name)()
    for name in ("sentences", "interaction", "f", "cpr", "agreement", "nodes", "outcomes", "significant"):
        getattr(result, name, None)
    for name in ("top", "normalised", "normalised_stderr", "importance"):
        if isinstance(result, vc.Scores):
            getattr(result, name)()


def bytes_changed(raw, draw):
    """A flipped bit, a cut, some bytes more, two blocks changed places."""
    raw, at = bytearray(raw), draw.randrange(len(raw))
    how = draw.randrange(4)
    if how == 0:
        raw[at] ^= 1 << draw.randrange(8)
    elif how == 1:
        del raw[at:]
    elif how == 2:
        raw[at:at] = draw.randbytes(draw.randrange(1, 9))
    else:
        other = draw.randrange(len(raw))
        raw[at], raw[other] = raw[other], raw[at]
    return bytes(raw)


def places(value, depth=0):
    """Every (container, key) of a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield value, key
        yield from places(one, depth + 1)


def header_changed(header, draw):
    """One value of a header replaced, removed or doubled."""
    header = json.loads(json.dumps(header))
    container, key = draw.choice(list(places(header)))
    how = draw.randrange(8)
    if how == 0:
        del container[key]
    elif how == 1 and isinstance(container, list):
        container.append(container[key])
    elif how == 2 and isinstance(container[key], int | float) and not isinstance(container[key], bool):
        container[key] = draw.choice([container[key] + 1, -container[key] - 1, container[key] * 1000])
    else:
        container[key] = draw.choice(HOSTILE)
    return header


def tensor_changed(tensors, draw):
    """One tensor of another type, shape or content, or none of it."""
    tensors, name = dict(tensors), draw.choice(sorted(tensors))
    one = tensors[name]
    how = draw.randrange(9)
    if how == 0:
        del tensors[name]
    elif how == 1:
        tensors[name] = torch.tensor(1.0)
    elif how == 2:
        tensors[name] = one[:0] if one.ndim else one
    elif how == 3:
        tensors[name] = torch.cat([one, one]) if one.ndim else one
    elif how == 4:
        tensors[name] = one.to(draw.choice([torch.int64, torch.float32, torch.bool, torch.bfloat16, torch.uint8]))
    elif how == 5:
        tensors[name] = one[..., None]
    elif one.numel():
        value = draw.choice([-2, -1, 5, 1000, 2**40, float("nan"), float("inf"), 1e30])
        if not one.is_floating_point():
            value = 7 if one.dtype in (torch.bool, torch.uint8) or not abs(value) < 2**60 else int(value)
        changed = one.clone().reshape(-1)
        changed[draw.randrange(len(changed))] = value
        tensors[name] = changed.reshape(one.shape)
    return tensors


def attempt(kind, path):
    """Load and use a file; only errors of ours may come of it, soon."""
    began = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # means of empty slices and the like are no fault of the file's reader
        try:
            result = kind.load(path)
        except VeracausaError:
            return False
        with contextlib.suppress(VeracausaError):
            use(result)
    assert time.monotonic() - began < 30
    return True


def original(kinds, name, folder):
    kind = kinds[name]
    path = folder / f"file.{kind.ending}"
    kind.save(path)
    return kind, path


@pytest.mark.parametrize("name", KINDS)
def test_whole_files_are_read(kinds, tmp_path, name):
    assert attempt(*original(kinds, name, tmp_path))


@pytest.mark.parametrize("name", KINDS)
def test_changed_bytes(kinds, tmp_path, name):
    kind, path = original(kinds, name, tmp_path)
    raw, draw = path.read_bytes(), random.Random(name)
    accepted = 0
    for _ in range(2 * TRIES):
        changed = bytes_changed(raw, draw)
        path.write_bytes(changed)
        accepted += attempt(kind, path) and changed != raw
        path.unlink(missing_ok=True)
    if kind.ending == "safetensors":
        assert not accepted, "a changed byte went unnoticed"


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("graphml", "csv")])
def test_hostile_headers_with_the_right_checksum(kinds, tmp_path, name):
    kind, path = original(kinds, name, tmp_path)
    draw = random.Random(name)
    if kind.ending == "json":
        body = json.loads(path.read_text(encoding="utf-8"))
    else:
        form = _form(path)
        body, tensors = read_tensors(path, form)
    for _ in range(3 * TRIES):
        changed = header_changed(body, draw)
        try:
            if kind.ending == "json":
                write_json(path, changed)
            else:
                write_tensors(path, form, changed, tensors)
        except (VeracausaError, ValueError):  # JSON cannot even be written with integers of so many digits
            continue
        attempt(kind, path)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in TEXTS])
def test_hostile_tensors_with_the_right_checksum(kinds, tmp_path, name):
    kind, path = original(kinds, name, tmp_path)
    draw, form = random.Random(name), _form(path)
    header, tensors = read_tensors(path, form)
    for _ in range(3 * TRIES):
        write_tensors(path, form, header, tensor_changed(tensors, draw))
        attempt(kind, path)


def _form(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()["format"]
