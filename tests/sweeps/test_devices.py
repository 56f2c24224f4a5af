"""Which device each worker is told to take, as if this machine had GPUs; and what is said where it has none."""

import pytest
import torch
from command_line import model_folder, pairs_file
from tiny_sweeps import plan, quiet

from veracausa.errors import DeviceError
from veracausa.sweeps.devices import devices, seen_by, take_own
from veracausa.sweeps.plan import plan_of


def cells(**model):
    return plan_of({"models": [{"name": "m", **model}], "tasks": ["ioi"], "questions": [{"ask": "exact"}]}).cells


@pytest.fixture
def three(monkeypatch):
    """A machine with three GPUs; gives which one was chosen for this process."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_workers_take_a_device_each_round_again(three):
    every = devices(cells(), {})
    assert [seen_by(number, every)["CUDA_VISIBLE_DEVICES"] for number in range(5)] == ["0", "1", "2", "0", "1"]
    assert devices(cells(device="cuda"), {"CUDA_VISIBLE_DEVICES": "4,GPU-7"}) == ["4", "GPU-7"]


def test_a_device_that_the_plan_names_is_left_alone(three):
    for named in ("cpu", "cuda:1"):
        assert devices(cells(device=named), {}) == [] and seen_by(1, []) == {}
        take_own(cells(device=named), {"LOCAL_RANK": "2"})
    assert three == []


def test_a_rank_of_torchrun_takes_its_own(three):
    for rank in ("2", "4"):
        take_own(cells(), {"LOCAL_RANK": rank})
    take_own(cells(), {})  # nobody's rank
    assert three == [2, 1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is no GPU")
def test_a_device_that_is_not_there_is_named_before_anything_is_run(tmp_path):
    asking = plan((model_folder(tmp_path / "model"), pairs_file(tmp_path / "pairs.csv")), {"ask": "exact"})
    asking["models"][0]["device"] = "cuda:3"
    with pytest.raises(DeviceError, match="device='cuda:3' cannot be used here"):
        quiet(asking, tmp_path / "out")
    assert devices(cells(), {}) == []
