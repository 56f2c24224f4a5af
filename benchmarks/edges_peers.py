"""Edges and circuits on random GPT-2 small, side by side with public implementations: same weights, pairs and run.

10 pairs of 16 tokens in one batch that first differ at positions 4, 8 and 12, float32, all 32,491 edges; circuits are
those of our eap ranking. Every implementation is a process of its own (`peers/`) that works only when it is asked, so
that they take turns; the fastest of the rounds counts, what takes over half a minute is run once. Peers need
environments of their own, and none of them a connection while it runs:

    python -m venv ac && ac/bin/pip install torch==2.13.0 auto-circuit==1.0.1 'transformer-lens<3' 'pyarrow<20' 'datasets<4'
    python -m venv tl && tl/bin/pip install torch==2.13.0 transformer-lens==4.3.0
    python benchmarks/edges_peers.py --auto-circuit ac/bin/python --transformerlens tl/bin/python
"""  # noqa: E501

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from common import header, table
from edges import pairs, random_model

import veracausa as vc
from veracausa.circuits.quality.curve import SIZES

HERE = Path(__file__).parent
OURS = "veracausa"
SCRIPTS = {
    name: HERE / "peers" / f"{file}_edges.py"
    for name, file in ((OURS, "veracausa"), ("auto-circuit", "auto_circuit"), ("TransformerLens", "transformerlens"))
}
#: Seconds from which on once is enough.
LONG = 30.0


@dataclass
class Side:
    """One implementation at work: its process, what it can measure, and what it measured."""

    name: str
    process: subprocess.Popen[str]
    measures: list[str]
    versions: list[str]
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def start(cls, name: str, python: str, folder: str) -> Side:
        """Start a worker and wait until it is ready."""
        path = [str(HERE), *([os.environ["PYTHONPATH"]] if name == OURS and "PYTHONPATH" in os.environ else [])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        command = [python, str(SCRIPTS[name]), folder]
        process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment)
        side = cls(name, process, [], [])
        ready = side.answer()
        side.measures, side.versions = ready["measures"], ready["versions"]
        return side

    def answer(self) -> Any:
        """The worker's next answer."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}'s worker stopped; see above. Are the packages installed that this file names?")
        return json.loads(line)

    def measure(self, what: str) -> None:
        """Ask for one measurement."""
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        self.runs.setdefault(what, []).append(self.answer())
        print(f"{self.name}: {what}: {self.runs[what][-1]['seconds']:.2f} s", file=sys.stderr)

    def seconds(self, what: str) -> float:
        """The fastest run; the first one is a warm-up where there are others."""
        runs = self.runs[what]
        return min(run["seconds"] for run in runs[1:] or runs)

    def told(self, what: str) -> Any:
        """The result of the last run."""
        return self.runs[what][-1]["told"]

    def gib(self, what: str) -> float:
        """Largest peak above the loaded weights."""
        return max(run["gib"] for run in self.runs[what])


def take_turns(sides: list[Side], rounds: int, limit: float) -> None:
    """Measure everything once, then again in rounds of all sides while they fit into the limit of seconds."""
    began = time.monotonic()
    for number in range(rounds + 1):
        again = [
            (side, what)
            for what in dict.fromkeys(what for side in sides for what in side.measures)
            for side in sides
            if what in side.measures and (not number or side.runs[what][0]["seconds"] < LONG)
        ]
        if number and time.monotonic() - began + sum(side.runs[what][0]["seconds"] for side, what in again) > limit:
            print(f"Stopped after {number} rounds: the next would pass {limit:.0f} s.", file=sys.stderr)
            return
        for side, what in again:
            side.measure(what)


def set_up_lines(script: Path) -> int:
    """Lines of code of a worker's `set_up`, from its imports to what can be called."""
    source = script.read_text()
    [function] = [node for node in ast.parse(source).body if getattr(node, "name", "") == "set_up"]
    lines = source.splitlines()[function.lineno : function.end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def rows_of(sides: list[Side]) -> list[list[object]]:
    """Seconds, ratio to our own, peak memory."""
    ours, rows = sides[0], []
    whole = ours.seconds("bare forward and backward")
    for what in dict.fromkeys(what for side in sides for what in side.measures):
        for side in (side for side in sides if what in side.measures):
            took, same = side.seconds(what), what if what in ours.measures else what.partition(",")[0]
            share = f"{took / ours.seconds(same):.1f}×" if side is not ours else ""
            rows.append([what, side.name, f"{took:.2f}", f"{took / whole:.1f}", share, f"{side.gib(what):.2f}"])
    return rows


def agreement_of(side: Side, ours: Side, gap: float) -> list[list[object]]:
    """How far a peer's numbers are from ours."""
    rows: list[list[object]] = []
    for what in (what for what in side.measures if what.startswith("eap")):
        mine, theirs = ours.told("eap"), side.told(what)
        if mine.keys() != theirs.keys():
            sys.exit(f"{side.name} has other edges than we: {sorted(mine.keys() ^ theirs.keys())[:5]} …")
        a, b = (np.array([scores[name] for name in mine]) for scores in (mine, theirs))
        r, worst = np.corrcoef(a, b)[0, 1], np.abs(a - b).max() / np.abs(a).max()
        rows.append([side.name, what, f"{len(a):,} edges", f"{r:.7f}", f"{worst:.1e} of the largest score"])
    for what in (what for what in side.measures if "circuit" in what):
        a, b = np.array(ours.told(what)), np.array(side.told(what))
        worst = np.abs(a - b).max() / gap
        rows.append([side.name, what, f"{b.shape[0]} × {b.shape[1]} outputs", "", f"{worst:.1e} of the mean gap"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--auto-circuit", metavar="PYTHON", help="interpreter of its environment")
    parser.add_argument("--transformerlens", metavar="PYTHON", help="interpreter of its environment")
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try whether everything runs")
    parser.add_argument("--rounds", type=int, default=3, help="after the first, which is a warm-up")
    parser.add_argument("--limit", type=float, default=480, help="seconds after which no further round begins")
    chosen = parser.parse_args()
    pythons = {OURS: sys.executable, "auto-circuit": chosen.auto_circuit, "TransformerLens": chosen.transformerlens}
    with TemporaryDirectory() as folder:
        lm, task = random_model(chosen.layers), pairs()
        lm.hf.save_pretrained(folder)
        scores = vc.attribute(lm, task, units="edges", method="eap", show_progress=False)
        gap, names, size = float(scores.gap.abs().mean()), scores.units.names, lm.graph.size
        asked = {
            "clean": task.clean,
            "corrupted": task.corrupted,
            "correct": task.correct[0][0],
            "incorrect": task.incorrect[0][0],
            "ranking": [names[i] for i in scores.ranking()],
            "one": [min(1000, size)],
            "ten": sorted({max(1, round(share * size)) for share in SIZES}),
        }
        (Path(folder) / "pairs.json").write_text(json.dumps(asked))
        del lm, scores
        sides = [Side.start(name, python, folder) for name, python in pythons.items() if python]
        take_turns(sides, chosen.rounds, chosen.limit)
        for side in sides:
            side.process.communicate()
    options = " ".join(f"--{side.name.lower()} peer/bin/python" for side in sides[1:])
    print(header(f"python benchmarks/edges_peers.py {options}"))
    for side in sides[1:]:
        print(f"\n{side.name}'s environment: {', '.join(side.versions)}.")
    print(f"\n{chosen.layers} blocks, {size:,} edges. GiB: peak above the loaded weights.\n")
    print(table(["", "", "seconds", "/ bare forward and backward", "/ veracausa", "GiB"], rows_of(sides)))
    print()
    compared = [row for side in sides[1:] for row in agreement_of(side, sides[0], gap)]
    print(table(["compared with veracausa", "", "", "Pearson r", "largest difference"], compared))
    print("\nLines of set-up: " + ", ".join(f"{side.name} {set_up_lines(SCRIPTS[side.name])}" for side in sides) + ".")


if __name__ == "__main__":
    main()
