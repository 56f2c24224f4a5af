"""docs/families.md is what the census finds (`scripts/census.py`): in full with the slow tests, its outlines always."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import census  # noqa: E402
import census_models  # noqa: E402
import census_page  # noqa: E402
from census_models import Type  # noqa: E402

from veracausa.anatomy import decoder_of  # noqa: E402
from veracausa.model import Model  # noqa: E402

PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
MADE_WITH = re.search(r"^transformers (\S+):", PAGE, re.M)[1]
of_this_version = pytest.mark.skipif(transformers.__version__ != MADE_WITH, reason=f"the page is of {MADE_WITH}")


def run(*options: str) -> list[str]:
    """The script's lines, run alone: it loads families in float64, which others have loaded as they are."""
    command = [sys.executable, str(ROOT / "scripts" / "census.py"), *options]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout.splitlines()


def words(lines: list[str]) -> dict[str, str]:
    """Structure → the census's word for it."""
    said = {"works in part": "part", "not tried": "unbuilt"}
    found = (re.fullmatch(r"(.*?): (works in part|not tried|works|refused|FAILS|WRONG) \(.*", line) for line in lines)
    return {one[1]: said.get(one[2], one[2]) for one in found if one}


@pytest.mark.slow
@of_this_version
def test_outlines_are_those_of_the_page():
    """Whose models are taken, and that a head of each has the effect of a plain run."""
    page, found = census_page.words(PAGE), words(run("--quick"))
    taken = {"works": "taken", "part": "taken"}
    assert {name: taken.get(word, word) for name, word in found.items()} == {
        name: taken.get(word, word) for name, word in page.items()
    }


@of_this_version
@pytest.mark.slow
def test_page_is_what_the_census_finds(tmp_path):
    page = tmp_path / "families.md"
    page.write_text(PAGE, encoding="utf-8")
    run("--write", str(page))
    assert page.read_text(encoding="utf-8") == PAGE


def test_nothing_is_wrong_and_enough_works():
    page = census_page.words(PAGE)
    assert not {"WRONG", "fails"} & set(page.values())
    assert len({name.partition(" (")[0] for name, word in page.items() if word in ("works", "part")}) >= 60


def test_refusals_name_the_part_that_does_not_fit():
    section = re.search(r"^## Refused\n(.*?)(?=^## |<!--)", PAGE, re.M | re.S)[1]
    reasons = re.findall(r"^\| `.*` \| (.*) \|$", section, re.M)
    assert reasons
    assert [why for why in reasons if not re.search(r"`[^`]+`|\w+=\w+|block \d|numbers|wrapper", why)] == []


@pytest.mark.cases(1)
@pytest.mark.parametrize("verb", ["exact", "attribute"])
def test_a_wrong_number_is_called_wrong(monkeypatch, verb):
    """The judge judges: a number that is off by a hundredth is found, whichever of the two gave it."""
    own = getattr(census.vc, verb)

    class Off:
        def __init__(self, *args, **options):
            self.values = own(*args, **options).values * 1.01

    hf = census_models.make(Type("llama"))
    lm = Model(hf, None, "llama", "random weights", decoder_of(hf))
    right, wrong = census.Verdict(Type("llama")), census.Verdict(Type("llama"))
    census.try_kinds(lm, census.plain_runs(hf), right)
    monkeypatch.setattr(census.vc, verb, Off)
    census.try_kinds(lm, census.plain_runs(hf), wrong)
    assert (right.word, wrong.word) == ("works", "WRONG")
