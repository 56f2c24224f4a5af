"""The benchmarks can be started: what they import is there, and the model that some of them make is one."""

from pathlib import Path

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
