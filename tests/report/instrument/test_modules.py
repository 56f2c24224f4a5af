"""The page's modules by themselves, run by node: addresses, filters, packed columns, colours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import veracausa
from veracausa.report.instrument.bundle import MODULES, bundle, module

FOLDER = Path(veracausa.__file__).parent / "report" / "instrument"


def run(code: str) -> object:
    """What `found` is after a script that may import the modules."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine: the page's modules were not run by themselves")
    alone = MODULES[: MODULES.index("map")]  # those that need no page
    script = "\n".join(re.sub(r"^export |^import .*\n", "", module(name), flags=re.MULTILINE) for name in alone)
    done = subprocess.run(
        [node, "--input-type=module", "-e", f"{script}\n{code}\nconsole.log(JSON.stringify(found));"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_every_module_is_in_the_bundle_and_nothing_is_imported():
    assert {path.stem for path in FOLDER.glob("*.js")} == set(MODULES)
    assert not re.search(r"^(?:import|export)\b", bundle(), re.MULTILINE)
    assert "</script" not in bundle()
    for name in MODULES:  # each after those that it imports
        for other in re.findall(r'from "\./(\w+)\.js"', module(name)):
            assert MODULES.index(other) < MODULES.index(name)
        assert len(module(name).splitlines()) < 400
        assert not re.search(r"^import .* as ", module(name), re.MULTILINE)  # one scope: a name is one thing


def test_addresses_come_back():
    states = [
        {"units": []},
        {"units": ["a9.h6", "m3"], "task": "2-ten-pairs", "by": "off:ig (zero baseline)", "at": "cost"},
        {"units": ["a9.h6<q>", "d10.a,b&c=d", "x4<state>@7", "f1+f2 %"], "find": "a+b &", "least": "1.5"},
        {"units": [], "at": "2-ten-pairs-asked"},
    ]
    found = run(f"const found = {json.dumps(states)}.map((state) => readAddress(writeAddress(state)));")
    assert found == states


def test_filters_and_orders():
    found = run("""
      const exact = { value: [-0.5, 0.02, null], low: [null, 0, null], high: [null, 1, null] };
      const estimates = [{ label: "atp", alike: true, value: [-0.4, -0.3, 0.1] }, { label: "mask", value: [1, 2, 3] }];
      const kind = {
        names: ["a1.h0", "a2.h0", "a11.h0"], layer: [1, 2, 11], index: [0, 0, 0], position: [-1, -1, -1], n: 2,
        said: "head {index} of layer {layer}", supports: -1, exact, each: [1, 2, 3, 4, 5, 6], estimates,
      };
      const units = unitsOfKind(kind);
      const { said, each, low, high } = unitsOf({ kinds: [kind] }).get("a2.h0");
      const names = (list) => list.map((one) => one.name);
      const found = {
        unit: { said, each, low, high, estimates: units[0].estimates, misses: units.map((one) => missOf(one, "atp")) },
        mask: missOf(units[0], "mask"),
        find: names(filtered(units, { find: "A1" })), layers: names(filtered(units, { layers: "2-" })),
        one: names(filtered(units, { layers: "1" })), against: names(filtered(units, { sign: "against" })),
        least: names(filtered(units, { least: "10" })), plain: names(filtered(units, { least: "0.4", share: false })),
        size: names(sorted(units, "")), off: names(sorted(units, "off:atp")), place: names(sorted(units, "name")),
        ranges: ["", "3", "3-9", "20–", "x"].map((text) => layerRange(text).map(String)),
      };""")
    unit = found.pop("unit")
    assert unit["said"] == "head 0 of layer 2" and unit["each"] == [3, 4] and (unit["low"], unit["high"]) == (0, 1)
    assert unit["estimates"] == [{"label": "atp", "alike": True, "value": -0.4}, {"label": "mask", "value": 1}]
    assert unit["misses"] == [pytest.approx(0.1), pytest.approx(-0.32), None] and found.pop("mask") is None
    assert found == {
        "find": ["a1.h0", "a11.h0"], "layers": ["a2.h0", "a11.h0"], "one": ["a1.h0"], "against": ["a2.h0"],
        "least": ["a1.h0"], "plain": ["a1.h0"], "size": ["a1.h0", "a2.h0", "a11.h0"],
        "off": ["a2.h0", "a1.h0", "a11.h0"], "place": ["a1.h0", "a2.h0", "a11.h0"],
        "ranges": [["-Infinity", "Infinity"], ["3", "3"], ["3", "9"], ["20", "Infinity"], ["-Infinity", "Infinity"]],
    }  # fmt: skip


def test_names_of_edges_are_found_as_they_are_written_or_typed():
    found = run("""
      const nodes = { name: ["a0.h0@3", "a1.kv0@4", "a1.h1@4"], layer: [0, 1, 1] };
      const circuit = {
        signed: true, joins: [[1, 2]], nodes, at: new Map([["a0.h0->a1.kv0<k>@4", 0], ["a0.h0->a1.h1<q>@4", 1]]),
        edges: { name: ["a0.h0->a1.kv0<k>@4", "a0.h0->a1.h1<q>@4"], importance: [0.1, -2], start: [0, 0], end: [1, 2] },
      };
      const found = [
        asWritten(" A0.H0 → a1 "), edgesFound(circuit, "a0.h0->a1"), edgesFound(circuit, "->", { sign: "for" }),
        edgesFound(circuit, "->", { from: 2 }), endsNamed(circuit, ["a0.h0->a1.kv0<k>@4", "a0.h0"]),
        "a0.h1->m2@3, m2. a1.h1<q> (input->a0.kv0<v>)".split(NAMED).filter((one, i) => i % 2),
      ];
    """)
    assert found == [
        "a0.h0->a1", [1, 0], [0], [], ["a0.h0", "a1.kv0", "a1.h1"], ["a0.h1->m2@3", "m2", "input->a0.kv0<v>"]
    ]  # fmt: skip


def test_columns_are_filled_and_numbers_written():
    found = run("""
      const columns = [[1, 2], ["a"]];
      const theme = { range: { diverging: ["#000000", "#808080", "#ffffff"], ramp: ["#ffffff", "#000000"] } };
      const found = {
        filled: filled(
          { a: [{ column: 0 }], b: { column: 1 }, c: { column: 1, d: 2 }, e: null }, ({ column }) => columns[column]
        ),
        shown: [shown(-0.4404, true), shown(1.5, false), shown(0, true), shown(null, true), shown(-0.00001, true)],
        colours: [[-1, -1], [1, -1], [0, -1], [1, 1], [-0.5, 0], [null, -1]].map(
          ([value, supports]) => colourOf(value, 1, supports, theme)
        ),
        limit: [limitOf([null, -3, 2]), limitOf([0]), limitOf([])],
        ticks: ticks(-0.47, 0.2), span: span([0.5, null]),
      };""")
    assert found["filled"] == {"a": [[1, 2]], "b": ["a"], "c": {"column": 1, "d": 2}, "e": None}
    assert found["shown"] == ["−44.0 %", "+1.500", "0.0 %", "–", "0.0 %"]
    black, white, grey = "rgb(0,0,0)", "rgb(255,255,255)", "rgb(128,128,128)"
    assert found["colours"] == [black, white, grey, black, grey, "transparent"]
    assert found["limit"] == [3, 1, 1]
    assert found["ticks"] == pytest.approx([-0.4, -0.2, 0, 0.2]) and found["span"] == pytest.approx([-0.03, 0.53])
