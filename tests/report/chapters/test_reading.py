"""Figures and tables of the logit lens and of direct logit attribution: drawn, complete, and with their own numbers."""

import pytest

import veracausa as vc
from veracausa.report.chapters.reading import dla_figures, dla_tables, lens_figures, lens_tables

QUIET = {"show_progress": False}


def test_the_lens_is_a_line_for_each_run(tiny, task_of):
    found = vc.reading.lens(tiny("llama"), task_of((5, 7), 4), **QUIET)
    [figure] = lens_figures(found, "tiny")
    assert figure.png().startswith(b"\x89PNG") and [part.title for part in figure.parts] == [
        "Mean logit_diff", "Median rank of the answer",
    ]  # fmt: skip
    rows = figure.parts[0].data["tiny-metric"]
    assert len(rows) == 2 * len(found.points)
    row = next(row for row in rows if (row["run"], row["point"]) == ("corrupted", "r1+a1"))
    assert row["layer"] == 1.5
    assert row["value"] == pytest.approx(float(found.metric[1, 3].mean()), rel=1e-5)  # six digits are kept
    [table] = lens_tables(found, "tiny")
    assert len(table.rows) == 2 * len(found.points) and "token" in table.frame()


def test_without_tokens_the_lens_draws_the_metric_alone(tiny, task_of):
    found = vc.reading.lens(tiny("llama"), task_of((5, 7), 4), tokens=0, **QUIET)
    [figure] = lens_figures(found, "tiny")
    assert len(figure.parts) == 1 and figure.png() and "token" not in lens_tables(found, "tiny")[0].frame()


@pytest.mark.parametrize(("family", "neurons"), [("llama", None), ("gpt2", [1])])
def test_heads_are_a_map_and_mlps_are_bars(tiny, task_of, family, neurons):
    lm = tiny(family)
    found = vc.reading.dla(lm, task_of((5, 7), 4), neurons=neurons, **QUIET)
    whole = vc.reading.dla(lm, task_of((5, 7), 4), **QUIET)
    [figure] = dla_figures(found, "tiny")
    assert figure.png().startswith(b"\x89PNG")
    heads, mlps, kinds = figure.parts
    means = dict(zip(whole.names, whole.difference.mean(0).tolist(), strict=True))
    for part, name, names in ((heads, "tiny-heads", "a{}.h{}"), (mlps, "tiny-mlps", "m{}")):
        rows = part.data[name]
        assert len(rows) == lm.layers * (lm.heads if "heads" in name else 1)
        for row in rows:  # a split MLP is drawn whole
            assert row["value"] == pytest.approx(means[names.format(row["layer"], row["index"])], rel=1e-4, abs=1e-6)
    total = sum(row["value"] for row in kinds.data["tiny-kinds"])
    assert total == pytest.approx(float(found.difference.sum(1).mean()), rel=1e-4)
    [table] = dla_tables(found, "tiny")
    sizes = table.frame()["difference"].abs().tolist()
    assert len(sizes) == len(found.names) and sizes == sorted(sizes, reverse=True)
