"""Who may do a sweep's items, as names; what each is stands in `sweep.sweep`."""

from __future__ import annotations

RUNNERS: dict[str, str] = {
    "local": "in this process", "pool": "in several processes on this machine", "ray": "on a Ray cluster",
}  # fmt: skip
