"""The commands of docs/sweeps.md, typed as they stand there, about a tiny model: what starts workers elsewhere starts
them here, one after the other, as the guide says that it does not matter when they come."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import model_folder, pairs_file
from tiny_sweeps import PAIRS

import veracausa as vc

GUIDE = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", GUIDE, re.M | re.S)
    for line in block.splitlines()
]
PLAN = next(iter(re.findall(r"^```toml\n(.*?)^```", GUIDE, re.M | re.S)))


def here(command: str, out: Path) -> tuple[dict[str, str], list[str]]:
    """What a line starts on every machine, and the environment that it starts it in."""
    env, words = {}, shlex.split(command.replace("/shared/sweep", str(out)).replace("out/sweep", str(out)))
    if words[0].startswith("RAY_ADDRESS="):  # a cluster of this machine
        words = words[1:]
    if words[0] == "sbatch":
        env, words = {"SLURM_ARRAY_TASK_ID": "7"}, shlex.split(words[words.index("--wrap") + 1])
    if words[0] == "torchrun":
        env, words = {"LOCAL_RANK": "1", "RANK": "1"}, words[words.index("8") + 1 :]
    assert words[:2] == ["veracausa", "sweep"]
    return env, [sys.executable, "-m", *words]


def test_the_guide_has_the_commands_that_are_tried():
    assert len(COMMANDS) >= 8 and all("sweep" in command for command in COMMANDS)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_does_what_it_says(command, tmp_path, monkeypatch):
    """Each in a folder of its own: those about a folder find a sweep there that is done."""
    if "--runner ray" in command:
        pytest.importorskip("ray")
    model, pairs = model_folder(tmp_path / "model"), pairs_file(tmp_path / "pairs.csv", PAIRS)
    plan = PLAN.replace('"smollm2-135m"', f'{{name = "{model.name}", device = "cpu"}}')
    plan = re.sub(r'name = "ioi".*\nn = .*\nseed = .*\n', f'file = "{pairs.name}"\n', plan)
    (tmp_path / "plan.toml").write_text(plan, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    env, words = here(command, tmp_path / "out")
    if "plan.toml" not in command:
        vc.sweep("plan.toml", out=tmp_path / "out", show_progress=False)
    done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"} | env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sweep = vc.open(tmp_path / "out")
    assert len(sweep) == 4 and sweep.finished == ("--forecast" not in command)
