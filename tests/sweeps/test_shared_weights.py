"""Workers of one machine hold a model's weights once: they lie mapped from its file, and no run writes there."""

import re
from pathlib import Path

import pytest
from command_line import model_folder, pairs_file

import veracausa as vc

MAPS = Path("/proc/self/maps")


def mapped(file):
    """Where in this process's memory a file lies."""
    rows = [line.split() for line in MAPS.read_text().splitlines() if line.endswith(str(file))]
    return [tuple(int(end, 16) for end in re.fullmatch(r"(\w+)-(\w+)", row[0]).groups()) for row in rows]


def inside(lm, ranges):
    """How many bytes of the weights lie in these ranges, and how many there are."""
    weights = {p.data_ptr(): p.nbytes for p in lm.hf.parameters()}
    return sum(n for at, n in weights.items() if any(low <= at < high for low, high in ranges)), sum(weights.values())


@pytest.mark.skipif(not MAPS.exists(), reason="where a file is mapped is read where Linux says it")
def test_weights_are_mapped_from_their_file_before_and_after_a_run(tmp_path):
    """In the file's own precision; another one is a copy of each worker's own."""
    folder = model_folder(tmp_path / "model")
    lm = vc.load(str(folder), device="cpu")
    task = vc.task(lm, pairs_file(tmp_path / "pairs.csv"))
    vc.exact(lm, task, units="heads", show_progress=False)
    vc.attribute(lm, task, units="edges", method="eap-ig", show_progress=False)
    shared, whole = inside(lm, mapped((folder / "model.safetensors").resolve()))
    assert shared == whole > 0
    copied, _ = inside(vc.load(str(folder), dtype="float64", device="cpu"), mapped(folder / "model.safetensors"))
    assert copied == 0
