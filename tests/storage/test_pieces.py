"""A killed, interrupted or crashed run continues from its finished pieces and gives the same numbers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bridges import watched
from safetensors.torch import load

import veracausa as vc
from veracausa.errors import FileError

HELPERS = Path(__file__).parents[1] / "helpers"
#: Runs all neurons of two pairs one row at a time, writing pieces after every row.
CHILD = """
import signal, sys
sys.path.insert(0, {tests!r})
import tiny_models, torch
torch.set_num_threads(1)
# a shell that runs the tests in the background lets its children ignore Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
import veracausa as vc
import veracausa.storage.pieces as resume
from bridges import as_model
resume._KEEP_EVERY = 0.0
lm = as_model(tiny_models.make("llama", seed=1), "llama")
made = tiny_models.pairs(60, 2, 6, 2)
task = vc.Task("tiny", *(tuple(tuple(p[i]) for p in made) for i in (0, 1)),
               *(tuple((p[i],) for p in made) for i in (2, 3)))
print("ready", flush=True)
vc.exact(lm, task, units="neurons", rows=1, out={out!r}, show_progress=False)
print("finished", flush=True)
"""


def finished(folder):
    """Which effects the pieces in a folder hold, [examples, units]; None if there are none."""
    files = list(folder.glob("*.pieces.safetensors"))
    if not files:
        return None
    # read at once: safetensors opens a file twice (header, tensors), and this one is replaced meanwhile
    return load(files[0].read_bytes())["done"].bool()


def done(folder):
    found = finished(folder)
    return 0 if found is None else int(found.sum())


class Sweeps:
    """Counts the patched runs that pass the last block's attention: one for every row of an earlier layer."""

    def __init__(self, lm):
        self.lm, self.count = lm, 0

    def __call__(self, *args):
        self.count += self.lm.hf.config._attn_implementation == "veracausa_suffix"

    def during(self, call):
        before = self.count
        with watched(self.lm.hf.model.layers[2].self_attn, self):
            return call(), self.count - before


def started(folder, at_least):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(tests=str(HELPERS), out=str(folder))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while done(folder) < at_least:
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return child


def run(tiny, task_of, out, **options):
    return vc.exact(tiny("llama"), task_of(6, n=2), units="neurons", rows=1, out=out, show_progress=False, **options)


@pytest.mark.cases(1)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_continues(tiny, task_of, tmp_path, how):
    child = started(tmp_path, 20)
    child.send_signal(how)
    out, err = child.communicate(timeout=60)
    assert child.returncode != 0 and "finished" not in out
    if how == signal.SIGINT:
        assert "KeyboardInterrupt" in err
    kept = finished(tmp_path)
    assert 20 <= int(kept.sum()) < 240

    sweeps = Sweeps(tiny("llama"))
    whole, all_rows = sweeps.during(lambda: run(tiny, task_of, None))
    resumed, rows = sweeps.during(lambda: run(tiny, task_of, tmp_path))
    assert torch.equal(resumed.values, whole.values)
    assert all_rows - rows == int(kept[:, whole.units.layer < 2].sum())  # exactly the kept rows were not run again
    assert resumed.cost.forward >= whole.cost.forward  # the cost is that of both runs
    again, rows = sweeps.during(lambda: run(tiny, task_of, tmp_path))
    assert torch.equal(again.values, whole.values) and rows == 0
    leftovers = [p.name for p in tmp_path.iterdir() if not p.name.endswith(".pieces.safetensors")]
    # ours end in .tmp; safetensors fills a .tmpXXXXXX first, which a kill within it leaves
    assert all(name.startswith(".tmp") or name.endswith(".tmp") for name in leftovers), leftovers


def test_after_an_exception(tiny, task_of, tmp_path):
    """A crash inside the model: what was done is written before the exception leaves."""
    lm = tiny("llama", fresh=True)
    calls = 0

    def crash(*args):
        nonlocal calls
        calls += 1
        if calls > 40:
            raise RuntimeError("power cut")

    with watched(lm.hf.model.layers[2].mlp, crash), pytest.raises(RuntimeError, match="power cut"):
        vc.exact(lm, task_of(6, n=2), units="neurons", rows=1, out=tmp_path, show_progress=False)
    assert 20 < done(tmp_path) < 60
    assert torch.equal(run(tiny, task_of, tmp_path).values, run(tiny, task_of, None).values)


def test_pieces_of_other_calls_are_not_mixed(tiny, task_of, tmp_path):
    """Another direction, ablation, seed, task, metric, reference or set of units: its own file, its own numbers."""
    lm, task, other = tiny("llama"), task_of(6, n=2), task_of(6, n=2, seed=9)
    ways = [
        {}, {"direction": "denoising"}, {"ablation": "zero"}, {"ablation": "mean"},
        {"ablation": "mean", "reference": other}, {"ablation": "resample"}, {"ablation": "resample", "seed": 1},
        {"ablation": "resample", "reference": other}, {"units": "mlps"}, {"units": ["a0.h1"]},
    ]  # fmt: skip
    for count, options in enumerate(ways, start=1):
        kept = vc.exact(lm, task, out=tmp_path, show_progress=False, **options)
        assert torch.equal(kept.values, vc.exact(lm, task, show_progress=False, **options).values)
        assert len(list(tmp_path.iterdir())) == count
    for one in (other, task.with_metric("prob")):
        kept = vc.exact(lm, one, out=tmp_path, show_progress=False)
        assert torch.equal(kept.values, vc.exact(lm, one, show_progress=False).values)
    assert len(list(tmp_path.iterdir())) == len(ways) + 2


def test_pieces_of_another_model_are_not_used(tiny, task_of, tmp_path):
    first = tiny("llama")
    second = tiny("qwen3")
    task = task_of(6)
    vc.exact(first, task, out=tmp_path, show_progress=False)
    ours = vc.exact(second, task, out=tmp_path, show_progress=False)
    assert torch.equal(ours.values, vc.exact(second, task, show_progress=False).values)


def test_damaged_pieces_are_an_error(tiny, task_of, tmp_path):
    vc.exact(tiny("llama"), task_of(6), out=tmp_path, show_progress=False)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(FileError, match=rf"{path.name} is damaged or cut short.*Delete"):
        vc.exact(tiny("llama"), task_of(6), out=tmp_path, show_progress=False)


def test_a_pieces_file_is_not_a_score_file(tiny, task_of, tmp_path):
    vc.exact(tiny("llama"), task_of(6), out=tmp_path, show_progress=False)
    (path,) = tmp_path.iterdir()
    with pytest.raises(FileError, match="its header says 'veracausa-pieces-2'"):
        vc.open(path)


def test_out_that_is_a_file_is_a_clear_error(tiny, task_of, tmp_path):
    (tmp_path / "out").write_text("not a folder")
    with pytest.raises(vc.VeracausaError, match="out"):
        vc.exact(tiny("llama"), task_of(6), out=tmp_path / "out", show_progress=False)
