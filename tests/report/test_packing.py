"""Columns of a page come back as they were, to the last bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from naive_columns import unpacked

from veracausa.report.packing import Columns, shared


@pytest.mark.parametrize(
    "values",
    [
        [float(np.float32(x)) for x in (0.1, -0.2, 1e-30, 3e38, 0.0)],
        [0.1, 0.2],
        [1.5, None, float(np.float32(0.3))],
        [7] * 9,
        [None] * 5,
        [True, 1, 1, 1],
        ["a9.h6", "</script>", ""],
        ["for", "against", None, "for", "for", "for", "against", "for", "for"],
        [1, 2.5, 1e300],
        [round(x, 4) for x in np.random.default_rng(0).normal(0, 1, 60).tolist()],
        [None, -0.0, 1.2345e-18, -99999.0, 1e22, 0.1, 12345e22 / 1e4] * 9,
        [float(f"{x:.5g}") for x in np.random.default_rng(1).lognormal(0, 8, 300).tolist()],
        [None, *np.random.default_rng(0).normal(0, 1, 60).astype(np.float32).tolist()],
        np.random.default_rng(0).normal(0, 1, 60).tolist(),
        [1e-30, 0.5] * 20,
        list(range(-3, 90)),
        [-129, 40_000, 2**31] * 20,
        [-129, 40] * 20,
        [300, 70_000] * 20,
        [],
    ],
)
def test_a_column_comes_back_to_the_last_bit(values):
    columns = Columns()
    place = columns.add(values)["column"]
    found = unpacked(json.loads(json.dumps(columns.packed, allow_nan=False))[place])
    assert found == values and [type(one) for one in found] == [type(one) for one in values]


def test_what_is_no_number_is_nothing():
    columns = Columns()
    columns.add([math.nan, math.inf, np.float32(2), np.int64(3)])
    assert columns.packed == [[None, None, 2.0, 3]]


def test_records_share_columns_and_keep_what_has_other_fields():
    columns = Columns()
    first = columns.rows([{"name": "m0", "x": 1.0}, {"name": "m1", "x": 2.0}])
    second = columns.rows([{"name": "m0", "y": 5.0}, {"name": "m1", "y": 6.0}])
    assert first["fields"]["name"] == second["fields"]["name"] and len(columns.packed) == 3
    uneven = [{"a": 1}, {"b": 2}]
    assert columns.rows(uneven) == uneven and columns.rows([]) == []


def test_what_charts_share_is_written_once_and_comes_back():
    def whole(value, parts):
        if isinstance(value, list):
            return [whole(one, parts) for one in value]
        if not isinstance(value, dict):
            return value
        if set(value) == {"shared"}:
            return whole(parts[value["shared"]], parts)
        return {key: whole(one, parts) for key, one in value.items()}

    axis = {"title": "layer", "grid": False, "values": [0, 5, 10], "scale": {"type": "linear", "nice": False}}
    specs = [{"x": axis, "y": {**axis, "title": name}, "width": 300} for name in ("head", "head", "index")]
    packed, parts = shared(specs, least=20)
    assert whole(packed, parts) == specs
    text = json.dumps([packed, parts])
    assert text.count('"linear"') == 1 and len(text) < 0.6 * len(json.dumps(specs))
    assert shared([{"a": 1}, {"a": 2}]) == ([{"a": 1}, {"a": 2}], [])
