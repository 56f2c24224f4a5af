"""Names of units, their tables, and what is said of names that do not exist."""

import numpy as np
import pandas as pd
import pytest

import veracausa as vc
from veracausa.errors import UnitError
from veracausa.units import unit_names
from veracausa.units.every_unit import all_units
from veracausa.units.resolve import resolve_units
from veracausa.units.table import Units
from veracausa.units.unit_names import is_kind, parse_names

SIZES = {"heads": 12, "mlps": 3, "attention": 3, "neurons": 120, "residual": 4}
FIRST = {"heads": "a0.h0", "mlps": "m0", "attention": "a0", "neurons": "m0.n0", "residual": "r0"}
LAST = {"heads": "a2.h3", "mlps": "m2", "attention": "a2", "neurons": "m2.n39", "residual": "r3"}


@pytest.mark.parametrize("kind", SIZES)
def test_all_of_a_kind(tiny, kind):
    units = all_units(tiny("llama"), kind)
    assert len(units) == SIZES[kind] and not units.positional
    assert (units.names[0], units.names[-1]) == (FIRST[kind], LAST[kind])
    assert len(set(units.names)) == len(units)


@pytest.mark.parametrize("kind", SIZES)
def test_names_are_read_back(tiny, kind):
    lm = tiny("llama")
    for positions in (0, 3):
        units = all_units(lm, kind, positions)
        again = parse_names(lm, units.names)
        assert again.kind == kind and again.names == units.names and again.digest() == units.digest()
        assert [units.find(name) for name in units.names] == list(range(len(units)))


def test_a_kind_stands_alone_at_positions_or_at_a_span():
    for text in ("heads", "attn", "edges", "neurons@positions", "heads@spans", "mlps@subject", "patterns@cells"):
        assert is_kind(text), text
    for text in ("a0.h0", "heads@7", "edges@subject", "a0.h0@subject+m1@end", "heads,mlps", "head"):
        assert not is_kind(text), text


def test_names_of_a_kind_are_asked_about_together(tiny, monkeypatch):
    """Thousands of names cost one question about the model; the first that it has not is the one that is named."""
    lm, asked, own = tiny("llama"), [], unit_names.layers_with
    monkeypatch.setattr(unit_names, "layers_with", lambda *args: asked.append(args) or own(*args))
    assert len(parse_names(lm, [f"m{layer}.n{i}" for layer in range(3) for i in range(40)])) == 120
    assert len(asked) == 1
    for names in (["m0.n1", "m1.n40", "m9.n0"], ["m0.n1", "m3.n0", "m0.n40"]):
        with pytest.raises(UnitError, match=rf"'{names[1]}' is not in"):
            parse_names(lm, names)


def test_per_position_the_position_runs_fastest(tiny):
    units = resolve_units(tiny("llama"), "heads@positions", 3)
    assert units.names[:4] == ["a0.h0@0", "a0.h0@1", "a0.h0@2", "a0.h1@0"] and units.positional


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        ("heads", ["name", "layer", "head"]),
        ("neurons", ["name", "layer", "neuron"]),
        ("mlps", ["name", "layer"]),
        ("residual", ["name", "layer"]),
    ],
)
def test_tables_have_the_columns_that_apply(tiny, kind, columns):
    assert list(all_units(tiny("llama"), kind).table().columns) == columns
    table = all_units(tiny("llama"), kind, 2).table()
    assert list(table.columns) == [*columns, "position"]
    assert table["position"].tolist()[:3] == [0, 1, 0]


def test_one_name_and_short_names(tiny):
    lm = tiny("llama")
    assert resolve_units(lm, "a2.h1", 5).names == ["a2.h1"]
    assert resolve_units(lm, "attn", 5).kind == "attention" and resolve_units(lm, "resid", 5).kind == "residual"
    assert resolve_units(lm, ("a0.h1", "a0.h0"), 5).names == ["a0.h1", "a0.h0"]


def test_one_name_with_its_position(tiny):
    assert resolve_units(tiny("llama"), "m1.n7@3", 5).names == ["m1.n7@3"]


def test_selection_and_digest(tiny):
    units = all_units(tiny("llama"), "heads")
    assert units[[3, 1]].names == ["a0.h3", "a0.h1"] and units[:2].names == ["a0.h0", "a0.h1"]
    assert units[[3, 1]].digest() != units[[1, 3]].digest()
    assert units[[1]].digest() != Units("attention", units[[1]].layer, units[[1]].index, units[[1]].position).digest()
    assert "12 heads" in repr(units)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], ["empty"]),
        (["a3.h0"], ["'a3.h0'", "0 … 2", "4 heads", "llama"]),
        (["a0.h4"], ["'a0.h4'", "4 heads"]),
        (["m0.n40"], ["'m0.n40'", "40 neurons"]),
        (["m3"], ["'m3'", "0 … 2"]),
        (["r4"], ["'r4'", "0 … 3"]),
        (["a9.h6->m10"], ["a9.h6->m10", "is not the name of a unit"]),
        (["head 3"], ["head 3", "a9.h6 (head)", "@7"]),
        (["a0.h0@x y"], ["a0.h0@x y"]),
        (["a0.h0@x", "a0.h1"], ["mixes", "at a span"]),
        (["a0.h0@-1"], ["a0.h0@-1"]),
        (["a-1.h0"], ["a-1.h0"]),
        ([""], ["''"]),
        (["a0.h0", "m1"], ["mixes kinds", "heads", "mlps", "one call per kind"]),
        (["a0.h0", "a0.h1@2"], ["mixes", "@"]),
        (["a0.h0", "a0.h1", "a0.h0"], ["twice", "a0.h0"]),
    ],
)
def test_names_that_are_wrong(tiny, names, words):
    with pytest.raises(UnitError) as caught:
        parse_names(tiny("llama"), names)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("units", ["head", "", "heads@3", "neurons@positions@positions"])
def test_kinds_that_are_wrong(tiny, units):
    with pytest.raises(UnitError, match=r"units=.*heads, mlps, attention, neurons, residual"):
        resolve_units(tiny("llama"), units, 4)


def test_a_span_where_a_call_takes_none(tiny):
    for units in ("heads@position", ["a0.h0@subject"]):
        with pytest.raises(UnitError, match=r"names units at a span .*vc\.exact and vc\.attribute take") as caught:
            resolve_units(tiny("llama"), units, 4)
        assert ("Did you mean 'positions'" in str(caught.value)) == (units == "heads@position")


@pytest.mark.parametrize("name", ["a0.h0@²", "a٣.h0", "a0.h0@٣", "a0.h0@99999999999999999999", "a0.h0@" + "9" * 5000])
def test_other_digits_and_numbers_beyond_any_prompt_are_no_names(tiny, name):
    with pytest.raises(UnitError, match="not the name of a unit") as caught:
        parse_names(tiny("llama"), [name])
    assert len(str(caught.value)) < 440


@pytest.mark.parametrize(
    ("name", "meant"),
    [("a0.h00", "a0.h0"), ("a00.h1", "a0.h1"), ("m1.n007", "m1.n7"), ("a0.h0@007", "a0.h0@7"), (" A0.H1", "a0.h1"),
     ("R02", "r2"), ("a0.kv01<k>", "a0.kv1<k>")],
)  # fmt: skip
def test_a_unit_has_one_name(tiny, name, meant):
    """Else a unit could stand in a list twice; alone, in a list, and beside its plain name."""
    for units in (name, [name], [meant, name]):
        with pytest.raises(UnitError, match=f"Did you mean '{meant}'"):
            resolve_units(tiny("llama"), units, 8)


@pytest.mark.parametrize("edge", ["a0.h00->m1", "a0.h0->m01", "a0.h0->m1@007", "a٠.h0->m1", " a0.h0->m1", "A0.h0->m1"])
def test_an_edge_has_one_name(tiny, edge):
    with pytest.raises(UnitError, match=r"is no (writer|reader)"):
        resolve_units(tiny("llama"), ["a0.h0->m1", edge], 8)


@pytest.mark.parametrize(
    "units", [3, None, ["a0.h0", 3], [["a0.h0", 1]], {"a0.h0": 1}, pd.DataFrame({"unit": ["a0.h0"]}), b"heads"]
)
def test_units_that_are_no_list_of_names(tiny, task_of, units):
    with pytest.raises(
        UnitError,
        match=r"vc.exact: units is text, a list of text or of lists of text, a dict or a Units.*together=True",
    ):
        vc.exact(tiny("llama"), task_of(), units=units)
    with pytest.raises(UnitError, match=r"is a list|a group is a name|only vc\.exact takes"):
        resolve_units(tiny("llama"), units, 8)


def test_a_column_of_a_table_is_a_list_of_names(tiny):
    assert resolve_units(tiny("llama"), pd.Series(["a0.h0", "a1.h1"]), 8).names == ["a0.h0", "a1.h1"]


def test_a_name_that_is_not_in_the_table(tiny):
    with pytest.raises(UnitError, match=r"'m1' is not among these 12 heads"):
        all_units(tiny("llama"), "heads").find("m1")


def test_names_of_large_tables_are_found(tiny):
    lm = tiny("llama", num_hidden_layers=2, intermediate_size=300)
    units = all_units(lm, "neurons")
    chosen = units[np.array([5, 599])]
    assert chosen.names == ["m0.n5", "m1.n299"]
