"""The page of a pruned model: its numbers are the result's, and it stands alone."""

import re

import every_result
import pytest

import veracausa as vc
from veracausa.report.pages.pruning import page
from veracausa.words import plain, signed

QUIET = {"show_progress": False}


@pytest.mark.parametrize("units", ["heads+mlps", "layers"])
def test_the_numbers_of_the_page_are_those_of_the_result(units, tmp_path):
    lm, task = every_result.setting()
    text = ["The old keys to the cabinet are is " * 60]
    found = vc.pruning.prune(lm, [task, task], how=["fgp", "wanda"], units=units, share=0.4, text=text, **QUIET)
    done = found.export(lm, tmp_path / "small")
    said = found.page(tmp_path / "page.html", done).read_text()
    for row in found.table().itertuples(index=False):
        assert (plain(row.kl, 3) if row.on == "plain text" else signed(row.metric, 2)) in said
    assert all(name in said for name in found.cut) and f"{done.after:,}" in said
    assert 'data-view="cut-0"' in said and 'data-view="left-1"' in said
    assert "://" not in re.sub(r"<script.*?</script>", "", said, flags=re.S)
    assert "Checkpoint" not in page(found)
