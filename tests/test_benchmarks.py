"""The benchmarks can be started: what they import is there, and the model that some of them make is one."""

from pathlib import Path

import pytest
from processes import python

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_benchmarks_can_be_started():
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    code = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
for name in {names!r}: __import__(name)
from edges import pairs, random_model
print(random_model(layers=1).measure(pairs()).gap.shape)
"""
    assert len(names) > 15 and python(code).strip() == "torch.Size([10])"


@pytest.mark.slow
def test_the_gpu_benchmark_measures_every_kind_of_call_that_is_asked_for():
    kinds = ["eap", "circuits", "features", "long"]
    small = ["--shapes", "tiny", "--device", "cpu", "--pairs", "4", "--tokens", "64", "--no-contracts", "--no-measure"]
    code = f"""
import sys
sys.path.insert(0, {str(FOLDER)!r})
import gpu
sys.argv = ["gpu.py", *{small!r}, "--only", *{kinds!r}]
gpu.main()
"""
    rows = [line.split(" | ") for line in python(code).splitlines() if line.startswith("| ")][2:]
    names = [row[0].removeprefix("| ") for row in rows]
    assert [name.split(",")[0] for name in names] == [
        *("eap", "10 circuits", "exact", "atp", "eap-ig", "a circuit"),
    ]
    assert all(float(row[4]) > 0 and float(row[8].replace(",", "")) > 0 for row in rows)
