"""Patterns as units: names that read back, files, the command line, forecasts, interrupted calls, other verbs."""

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import called, model_folder, pairs_file

import veracausa as vc
from veracausa.cli.checks import units_of
from veracausa.errors import FileError, MethodError, UnitError
from veracausa.storage.files import read_tensors, write_tensors
from veracausa.units.cells import Cells
from veracausa.units.every_unit import all_cells
from veracausa.units.resolve import resolve_units

QUIET = {"show_progress": False}
CELLS = ["a1.h2<pattern>@5,3", "a0.h1<pattern>@4,4", "a2.h0<pattern>@5,0"]
GROUPS = ["a1.h2<pattern>@-1,0-2", ("a1.h2<pattern>@3", "m1"), "a0.h0<pattern>@2-4"]


@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells", CELLS, GROUPS])
def test_names_read_back(tiny, units):
    lm = tiny("llama")
    table = resolve_units(lm, units, 6, groups=True)
    again = resolve_units(lm, table.names, 6, groups=True)
    assert type(again) is type(table) and again.keys == table.keys and again.digest() == table.digest()
    assert len(set(table.names)) == len(table) == len(table.table())


def test_cells_are_those_that_a_query_sees(tiny):
    cells = all_cells(tiny("llama"), 5)
    assert len(cells) == 3 * 4 * 15 and (cells.key <= cells.position).all()
    assert cells.names[:3] == ["a0.h0<pattern>@0,0", "a0.h0<pattern>@1,0", "a0.h0<pattern>@1,1"]
    assert cells[-1:].names == ["a2.h3<pattern>@4,4"] and list(cells.table())[:5] == [
        "name", "layer", "head", "query", "key",
    ]  # fmt: skip
    rows = resolve_units(tiny("llama"), "patterns@positions", 5)
    assert rows.digest() != cells.digest() != cells[::-1].digest() and cells.find("a1.h2<pattern>@3,1") == 97
    hidden = Cells.of(np.array([0]), np.array([0]), np.array([2]), np.array([3]))
    with pytest.raises(UnitError, match="sees the keys from 0"):
        resolve_units(tiny("llama"), hidden, 5)


@pytest.mark.parametrize("units", ["patterns", "patterns@positions", CELLS, GROUPS])
def test_an_interrupted_call_goes_on(tiny, task_of, tmp_path, units):
    lm, task = tiny("llama"), task_of(6, n=3)
    whole = vc.exact(lm, task, units=units, **QUIET)
    for _ in range(2):
        assert torch.equal(vc.exact(lm, task, units=units, out=tmp_path, **QUIET).values, whole.values)


def test_cells_and_their_rows_are_other_pieces(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=2)
    for name in ("a1.h2<pattern>@5,3", "a1.h2<pattern>@5,4", "a1.h2<pattern>@5", "a1.h2<pattern>"):
        kept = vc.exact(lm, task, units=[name], out=tmp_path, **QUIET)
        assert torch.equal(kept.values, vc.exact(lm, task, units=[name], **QUIET).values)


@pytest.mark.cases(1)
@pytest.mark.parametrize("units", ["patterns", "patterns@positions", "patterns@cells", CELLS, GROUPS])
def test_forecasts_are_what_calls_cost(tiny, task_of, units):
    lm, task = tiny("llama"), task_of(6, n=3)
    for asked in ({}, {"direction": "denoising"}, {"ablation": "mean"}, {"ablation": "resample"}):
        price = vc.forecast(vc.exact, lm, task, units=units, measure=False, **asked)
        assert price.token_layers == vc.exact(lm, task, units=units, **asked, **QUIET).cost.token_layers
        assert price.memory.beside > 0
    for method in ("atp", "atp-star", "ig", "conductance") if units is not GROUPS else ():
        price = vc.forecast(vc.attribute, lm, task, units=units, method=method, measure=False)
        assert price.token_layers == vc.attribute(lm, task, units=units, method=method, **QUIET).cost.token_layers


def test_a_late_row_costs_what_is_behind_it(tiny, task_of):
    """A pattern of layer 1 of 3 runs from the middle of its block; the row of the last query one position of it."""
    lm, task = tiny("llama"), task_of(6, n=1, seed=4)
    start, beside = task.first_difference[0], vc.exact(lm, task, units=["a0.h0"], **QUIET).cost.token_layers - 3 * 6
    beside += 3 * task.first_difference[0]
    for name, layers, positions in (
        ("a1.h2<pattern>", 2, 6 - start),
        ("a1.h2<pattern>@5", 2, 1),
        ("a2.h2<pattern>@5,0", 1, 1),
    ):
        cost = vc.exact(lm, task, units=[name], **QUIET).cost.token_layers
        assert cost - beside == layers * positions


def test_damaged_keys_are_refused(tiny, task_of, tmp_path):
    lm, task = tiny("llama"), task_of(6, n=2)
    path = vc.exact(lm, task, units=CELLS, **QUIET).save(tmp_path / "cells.safetensors")
    header, tensors = read_tensors(path, "veracausa-scores-2")
    for key in (torch.tensor([3, 4]), torch.tensor([-1, 4, 0]), torch.tensor([3.0, 4.0, 0.0])):
        write_tensors(path, "veracausa-scores-2", header, tensors | {"key": key})
        with pytest.raises(FileError):
            vc.open(path)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return model_folder(folder / "tiny-llama"), pairs_file(folder / "agreement.csv")


@pytest.mark.slow
def test_on_the_command_line(places, tmp_path):
    """A comma before a number belongs to a cell; before a name it ends one."""
    folder, pairs = places
    lm = vc.load(folder, device="cpu")
    task = vc.task(lm, pairs)
    for i, (text, units) in enumerate(
        {
            "patterns": "patterns",
            "patterns@cells": "patterns@cells",
            "a1.h2<pattern>@3,2": ["a1.h2<pattern>@3,2"],
            "a1.h2<pattern>@3,2,a0.h1<pattern>@4,0": ["a1.h2<pattern>@3,2", "a0.h1<pattern>@4,0"],
            "a1.h2<pattern>@end,-2,a1.h2<pattern>+m1": ["a1.h2<pattern>@end,-2", "a1.h2<pattern>+m1"],
            "a1.h2<pattern>@3,0-2,m1": ["a1.h2<pattern>@3,0-2", ("m1",)],
        }.items()
    ):
        out = tmp_path / str(i)
        result = called(folder, "exact", pairs, "--units", text, "--out", out)
        assert result.exit_code == 0, result.output
        direct = vc.exact(lm, task, units=units, **QUIET)
        saved = vc.open(out / f"exact-{direct.units.kind}.safetensors")
        torch.testing.assert_close(saved.values, direct.values, equal_nan=True)
        assert saved.units.names == direct.units.names
        table = pd.read_csv(out / f"exact-{direct.units.kind}.csv")
        assert sorted(table["name"]) == sorted(saved.units.names)
    assert called(folder, "attribute", pairs, "--units", "patterns", "--verify", "--top", 3).exit_code == 0
    for wrong in ("a1.h2<pattern>@3,", "a1.h2<pattern>@3,2,5", "patterns@cell"):
        assert called(folder, "exact", pairs, "--units", wrong).exit_code != 0


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a1.h2<pattern>@verb,subject,m1", ["a1.h2<pattern>@verb,subject", "m1"]),
        ("a1.h2<pattern>@verb,m1", ["a1.h2<pattern>@verb", "m1"]),
        ("a1.h2<pattern>@3,2,a1,r2@3", ["a1.h2<pattern>@3,2", "a1", "r2@3"]),
        ("m1+a1.h2<pattern>@3,-2--1+m2@5,a0.h0", ["m1+a1.h2<pattern>@3,-2--1+m2@5", "a0.h0"]),
        ("a1.h2<pattern>@3,2+a1.h3<pattern>@3,1", "a1.h2<pattern>@3,2+a1.h3<pattern>@3,1"),
        ("a1.h2<pattern>,m1", ["a1.h2<pattern>", "m1"]),
        ("a1.h2<pattern>@3,a1.h2->a2.h0<q>", ["a1.h2<pattern>@3", "a1.h2->a2.h0<q>"]),
    ],
)
def test_commas_of_cells_and_commas_between_names(text, names):
    assert units_of(text) == names


def test_other_verbs(tiny, task_of, agree):
    lm, task = tiny("llama"), task_of(6, n=2)
    shapley = vc.effects.shapley(lm, task, units="patterns", **QUIET)
    groups = {f"layer {layer}": [f"a{layer}.h{head}<pattern>" for head in range(4)] for layer in range(3)}
    whole = vc.exact(lm, task, units=groups, **QUIET)
    agree(shapley.values.unflatten(1, (3, 4)).sum(2), whole.values, whole.gap)
    last = vc.effects.last_in(lm, task, units=["a1.h2<pattern>"], **QUIET)
    others = vc.exact(lm, task, units=[tuple(f"a1.h{head}<pattern>" for head in (0, 1, 3))], **QUIET)
    agree(last.values[:, 0], whole.values[:, 1] - others.values[:, 0], whole.gap)
    for verb in (vc.exact, vc.effects.direct):  # a head that looks nowhere writes nothing
        nowhere, nothing = (verb(lm, task, units=kind, ablation="zero", **QUIET) for kind in ("patterns", "heads"))
        agree(nowhere.values, nothing.values, nothing.gap)
    for call in (
        lambda: vc.effects.shapley(lm, task, units=CELLS, **QUIET),
        lambda: vc.estimates.learn_mask(lm, task, units="patterns", **QUIET),
        lambda: vc.effects.optimal_constants(lm, task, units="patterns", **QUIET),
        lambda: vc.behaviour.ablation_study(lm, task, units=["a1.h2<pattern>"], **QUIET),
        lambda: vc.causes.locate(lm, task, units=["a1.h2<pattern>"], **QUIET),
    ):
        with pytest.raises((MethodError, UnitError)):
            call()
    cells, rows = (vc.exact(lm, task, units=names, **QUIET) for names in (CELLS, ["a1.h2<pattern>@5"]))
    with pytest.raises(MethodError, match="No unit is in both"):
        vc.agreement(cells, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_types(tiny, task_of, dtype):
    """Within the rounding of the type of what float64 says; a pattern with its values is still the head's output."""
    lm, task = tiny("llama", dtype=dtype), task_of(6, n=2)
    scores = vc.exact(lm, task, units="patterns", **QUIET)
    wanted = vc.exact(tiny("llama"), task, units="patterns", **QUIET)
    allowed = {torch.float32: 1e-4, torch.bfloat16: 0.3, torch.float16: 0.05}[dtype]
    torch.testing.assert_close(scores.values.double(), wanted.values, rtol=0, atol=allowed)
    groups = {"parts": "a1.h2<pattern>+a1.h3<pattern>+a1.kv1<v>", "outputs": ["a1.h2", "a1.h3"]}
    both = vc.exact(lm, task, units=groups, **QUIET)
    torch.testing.assert_close(both.values[:, 0], both.values[:, 1], rtol=0, atol=allowed / 10)
