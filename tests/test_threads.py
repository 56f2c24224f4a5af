"""Threads that wait for work sleep soon, unless the user has said how they wait."""

import os
from types import SimpleNamespace

import pytest

from veracausa import threads


def told(monkeypatch, torch, **environment):
    """What the environment says behind the call."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "sys", SimpleNamespace(modules={"torch": object()} if torch else {}))
    threads.wait_shortly()
    found = {name: os.environ.get(name) for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    os.environ.pop("GOMP_SPINCOUNT", None)
    return found


@pytest.mark.parametrize(
    ("torch", "environment", "turns"),
    [
        (False, {}, "1000"),
        (True, {}, None),  # it has been read
        (False, {"GOMP_SPINCOUNT": "7"}, "7"),
        (False, {"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_only_what_is_not_chosen_is_set(monkeypatch, torch, environment, turns):
    assert told(monkeypatch, torch, **environment)["GOMP_SPINCOUNT"] == turns
