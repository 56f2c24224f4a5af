"""Which device each worker is told to take, as if this machine had GPUs; and what is said where it has none."""

from types import SimpleNamespace

import pytest
import torch
from command_line import model_folder, pairs_file
from tiny_sweeps import plan, quiet

from veracausa.errors import DeviceError, MethodError
from veracausa.sweeps import sweep as sweeping
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


def test_workers_that_share_a_gpu_plan_with_what_is_left_beside_their_weights(three, monkeypatch):
    """Of four on three GPUs two have one together: 100 bytes that are free are 50 for each, 30 of which are weights."""
    monkeypatch.setattr(sweeping, "free_now", lambda device: {"cuda": 100, "cpu": 10}[device.type])
    folder = SimpleNamespace(cells=cells(), facts=({"weights": 30},))
    assert [sweeping._share(folder, workers) for workers in (3, 4, 7)] == [None, 20, 3]
    with pytest.raises(MethodError, match="workers=10: 4 of them would share a GPU"):
        sweeping._share(folder, 10)
    assert sweeping._share(SimpleNamespace(cells=cells(device="cpu"), facts=({},)), 5) == 2


@pytest.mark.parametrize("device", ["cuda:1", "auto"])
def test_devices_that_the_plan_names_have_one_worker(three, device):
    """It plans with what is free there, not with a part of the main memory."""
    folder = SimpleNamespace(cells=cells(device=device))
    assert sweeping._workers(folder, None) == 1 and sweeping._share(folder, 1) is None


def test_workers_are_as_many_as_there_is_memory_for_with_weights_and_recordings(monkeypatch):
    """An item of 7 bytes beside 2 of weights: a worker's recordings may take an eighth of what is beside them."""
    monkeypatch.setattr(sweeping.os, "cpu_count", lambda: 64)
    items = [SimpleNamespace(memory=7, cell=0)] * 9
    folder = SimpleNamespace(cells=cells(device="cpu"), facts=({"weights": 2},), items=items, open_items=lambda: items)
    for free, workers in ((0, 1), (39, 3), (40, 4), (400, 9)):
        monkeypatch.setattr(sweeping, "free_now", lambda device, free=free: free)
        assert sweeping._workers(folder, None) == workers


@pytest.mark.skipif(torch.cuda.is_available(), reason="where there is no GPU")
def test_a_device_that_is_not_there_is_named_before_anything_is_run(tmp_path):
    asking = plan((model_folder(tmp_path / "model"), pairs_file(tmp_path / "pairs.csv")), {"ask": "exact"})
    asking["models"][0]["device"] = "cuda:3"
    with pytest.raises(DeviceError, match="device='cuda:3' cannot be used here"):
        quiet(asking, tmp_path / "out")
    assert devices(cells(), {}) == []
