"""Whatever a study can find has a place on its page."""

from __future__ import annotations

from typing import get_args

from veracausa.report.chapters.registry import BESIDE, CHAPTERS
from veracausa.studies.results import Failure, Finding


def test_every_finding_has_a_chapter_or_stands_in_another_ones():
    assert {*CHAPTERS, *BESIDE, Failure} == set(get_args(Finding))
    assert not set(CHAPTERS) & set(BESIDE) and set(BESIDE.values()) <= set(CHAPTERS)


def test_every_finding_can_be_drawn():
    for _, draw, lead in CHAPTERS.values():
        assert all(callable(getattr(draw.module, f"{draw.prefix}{part}")) for part in ("figures", "tables"))
        assert lead.endswith(".")
