"""The page of a circuit of features: its numbers are the circuit's and its curves', and it stands alone."""

import re

import pytest
from laid_features import asked, dictionary, task_of
from tiny_models import VOCAB, pairs

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.report.charts.feature_circuits import _apart
from veracausa.report.charts.theme import LIGHT
from veracausa.report.pages.feature_circuits import page
from veracausa.words import plain, signed

QUIET = {"show_progress": False}


@pytest.fixture(scope="module")
def made():
    _, lm, found, task = asked("llama")
    lm = lm.reading(dictionary(lm.width, "r1", "relu", name="low")[0], dictionary(lm.width, "r2", "relu", seed=6)[0])
    how = {"method": "atp", "node_threshold": 0.3, **QUIET}
    circuit = vc.circuits.feature_circuit(lm, task, **how)
    curve = vc.circuits.part_curve(lm, task, circuit, sizes=(1, 3), errors="moved", **QUIET)
    return lm, circuit, curve, vc.circuits.feature_circuit(lm, task, positions=True, most=8, **how), found


def test_the_numbers_of_the_page_are_those_of_the_results(made, tmp_path):
    _, circuit, curve, placed, _ = made
    text = circuit.page(tmp_path / "page.html", [curve]).read_text()
    for table, key in ((circuit.node_table(), "name"), (circuit.table(), "upstream")):
        for row in table.head(3).itertuples():
            assert getattr(row, key) in text and signed(row.effect, 4) in text and plain(row.stderr, 4) in text
    for row in curve.table().itertuples():
        assert signed(row.faithfulness, 3) in text and signed(row.completeness, 3) in text
    assert "Errors are replaced" in text and "Nothing here was run exactly" not in text
    assert "://" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    alone = page(placed)
    assert "Nothing here was run exactly" in alone and "token (first prompt)" in alone
    assert f"@{placed.parts[0].partition('@')[2]}" in alone
    pages = (tmp_path / "page.html", placed.page(tmp_path / "placed.html"))
    assert all('data-view="drawing-0"' in path.read_text() for path in pages)


def test_a_curve_of_other_pairs_is_refused(made):
    lm, circuit, *_ = made
    other = task_of(pairs(VOCAB, 2, 6, 9))
    strange = vc.circuits.part_curve(lm, other, circuit, sizes=(1,), **QUIET)
    with pytest.raises(MethodError, match="other pairs"):
        page(circuit, [strange])


def test_blue_supports(made):
    """A part whose replacement lowers the metric supports the behaviour: blue, as in every figure."""
    _, circuit, *_ = made
    spec = circuit.chart().to_dict()
    scales = [layer["encoding"]["color"]["scale"] for layer in spec["layer"] if "color" in layer["encoding"]]
    assert len(scales) == 2
    for scale in scales:
        painted = dict(zip(scale["domain"], scale["range"], strict=True))
        assert painted["supports"] == LIGHT.diverging[1] and painted["works against"] == LIGHT.diverging[-2]
    data = [layer["data"]["values"] for layer in spec["layer"] if "color" in layer["encoding"]]
    rows = [row for rows in data for row in rows if row.get("effect")]
    assert {(row["effect"] < 0, row["sign"]) for row in rows} == {(True, "supports"), (False, "works against")}


def test_names_stand_apart():
    """The strongest of a crowd is named alone; far ones, and those of other rows, beside it."""
    assert _apart([(0.0, 0.0), (0.1, 0.0), (5.0, 0.0), (0.1, 1.0), (-5.0, 0.0), (4.9, 0.0)]) == [0, 2, 3, 4]
