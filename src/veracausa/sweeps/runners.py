"""Who may do a sweep's items, as names; what each is stands in `sweep.sweep`."""

from __future__ import annotations

RUNNERS: dict[str, str] = {
    "local": "in this process", "pool": "in several processes on this machine", "ray": "on a Ray cluster",
}  # fmt: skip
#: Programs that start a worker on every machine themselves → what to type; the workers agree through the folder.
STARTERS: dict[str, str] = {
    "slurm": 'sbatch --array 0-63 --wrap "veracausa sweep {plan} --out {out}"',
    "torchrun": "torchrun --no-python --nproc-per-node 8 veracausa sweep {plan} --out {out}",
}


def typed_instead(runner: str, plan: object, out: object) -> str:
    """What to type in the place of a runner that is a starter; "" for all others."""
    if runner not in STARTERS:
        return ""
    shown = plan if isinstance(plan, str) else "plan.toml"
    return (
        f"{runner} starts the same command on every machine, and the workers agree through the folder, so there is no "
        f"runner for it. Type: {STARTERS[runner].format(plan=shown, out=out)}"
    )
