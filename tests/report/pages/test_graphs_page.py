"""The page of attribution graphs: its numbers are the graphs' and their check's, and it stands alone."""

import re
from dataclasses import replace

import pytest
from bridges import as_model
from tiny_models import make
from transcoders import cross_layer, random_task, transcoder

import veracausa as vc
from veracausa.errors import MethodError
from veracausa.report.pages.graphs import page
from veracausa.words import plain, signed


@pytest.fixture(scope="module")
def made():
    lm, task = as_model(make("llama"), "llama"), random_task()
    own = [transcoder(lm.width, layer) for layer in (0, 2)]
    graphs = [vc.graphs.attribution_graph(lm, task, pair=i, dictionary=own, show_progress=False) for i in range(2)]
    return graphs, vc.graphs.check(lm, graphs, task, dictionary=own, top=12)


def cells(text, table, row):
    """The cells of one row of a table of the page, as texts."""
    section = text[text.index(f'id="{table}"') :]
    found = next(one for one in re.findall(r"<tr>(.*?)</tr>", section, re.S) if f">{row}<" in one)
    return re.findall(r">([^<]*)</td>", found)


def test_the_numbers_of_the_page_are_those_of_the_results(made):
    graphs, check = made
    text = page(graphs, check)
    table, top = check.table(), graphs[1].top(1).iloc[0]
    own = table[(table.graph == 1) & (table.name == top["name"])].iloc[0]
    found = cells(text, "graph-1-nodes", top["name"])
    for value in (plain(top["influence"], 4), signed(top["without it"], 4), signed(own.frozen, 4), signed(own.live, 4)):
        assert value in found
    assert cells(text, "check-agreement", "frozen ablation")[1] == plain(check.agreement().iloc[0]["r"], 2)
    for sentence in check.sentences:
        assert sentence.replace("&", "&amp;") in text
    assert "MLPs of 1 layer without a transcoder are errors, whole" in text
    assert "://" not in re.sub(r"<script.*?</script>", "", text, flags=re.S)
    alone = page(graphs[:1])
    assert "Nothing here was held against the live model" in alone and "Beside the live model" not in alone


def test_texts_of_prompts_are_shown_and_never_run(made):
    graphs, _ = made
    hostile = replace(graphs[0], tokens=("<script>alert(1)</script>", *graphs[0].tokens[1:]))
    text = page([hostile])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "<script>alert(1)" not in text


def test_a_check_of_other_graphs_is_refused(made, tmp_path):
    graphs, check = made
    with pytest.raises(MethodError, match="of other graphs"):
        graphs[0].page(tmp_path / "page.html", check)
    with pytest.raises(MethodError, match="1 to 20"):
        page([])
    assert graphs[0].page(tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.browser
def test_it_draws_quietly_and_fits_a_phone(chromium, made, tmp_path):
    graphs, check = made
    (tmp_path / "page.html").write_text(page(graphs, check), encoding="utf-8")
    opened, log = chromium.new_page(viewport={"width": 390, "height": 844}), []
    opened.on("console", lambda message: log.append(message.text))
    opened.on("pageerror", lambda error: log.append(str(error)))
    opened.goto((tmp_path / "page.html").as_uri())
    assert opened.evaluate("veracausa.drawAll()") == opened.locator("[data-view] canvas").count() == 7
    assert log == [] and opened.evaluate("document.documentElement.scrollWidth") == 390
    opened.close()


def test_a_graph_of_a_cross_layer_transcoder_has_a_page():
    lm, task = as_model(make("gpt2"), "gpt2"), random_task()
    own, _ = cross_layer(lm.width, lm.layers, reads="mid")
    graph = vc.graphs.attribution_graph(lm, task, dictionary=own, show_progress=False)
    assert all(name in page([graph]) for name in [graph.names[i] for i in graph.strongest(3)])
