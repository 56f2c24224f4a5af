"""Kill, fill the disk, call from several threads: nothing is lost, and no traceback but ours.

    python benchmarks/robustness.py --kills 91
    PYTHONPATH=tests/helpers python tests/test_fuzzed_calls.py 2423
    VERACAUSA_DAMAGE=30 pytest tests/storage/test_damage.py

The first command is this file:

* kills: calls that keep finished pieces in a folder are killed with SIGKILL at random moments and called again; the
  numbers must be those of a call that was left alone, to the last bit;
* disk: the same calls, and saving their results, on file systems of 4 to 256 KiB (a tmpfs where one may be mounted,
  else a limit on the size of files): a `FileError`, or it fits;
* threads: calls of two threads on one model give the numbers of one thread, and leave the model as it was.

The second and the third are the suite's own mutations of arguments and of result files, in larger numbers. Every call
has a deadline; one that passes it counts as hung.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import header, table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import tiny_models
from bridges import as_model

import veracausa as vc
from veracausa.model import Model
from veracausa.storage import pieces as resume
from veracausa.tasks.task import Task

DEADLINE = 120
QUIET = {"show_progress": False}


def the_task(n: int = 3) -> Task:
    """Random pairs of one length, so that every ablation has donors."""
    made = tiny_models.pairs(tiny_models.VOCAB, n, 8, 2)
    return Task(
        "tiny",
        tuple(tuple(pair.clean) for pair in made),
        tuple(tuple(pair.corrupted) for pair in made),
        tuple((pair.correct,) for pair in made),
        tuple((pair.incorrect,) for pair in made),
    )


def the_model() -> Model:
    """A tiny Llama in float64; the same one at every call."""
    return as_model(tiny_models.make("llama", seed=1), "llama")


def values(result: Any) -> list[torch.Tensor]:
    """The numbers of a result, whatever it is."""
    if isinstance(result, vc.Scores):
        return [result.values]
    if isinstance(result, vc.behaviour.AblationStudy):
        return [torch.tensor([[one.accuracy, one.metric] for one in result.outcomes], dtype=torch.float64)]
    if isinstance(result, vc.Receipt):
        return [result.exact.values]
    if isinstance(result, vc.discovery.Discovery):
        return [result.scores.values, torch.as_tensor(result.circuit.mask)]
    raise TypeError(type(result))


#: Calls that keep their pieces in a folder.
CALLS: dict[str, Callable[[Model, Task, Path | None], Any]] = {
    "exact, neurons": lambda lm, task, out: vc.exact(lm, task, units="neurons", rows=1, out=out, **QUIET),
    "exact, edges": lambda lm, task, out: vc.exact(lm, task, units="edges", rows=8, out=out, **QUIET),
    "exact, resampled": lambda lm, task, out: vc.exact(lm, task, ablation="resample", rows=1, out=out, **QUIET),
    "shapley": lambda lm, task, out: vc.effects.shapley(lm, task, units="heads", out=out, **QUIET),
    "verify": lambda lm, task, out: vc.verify(
        lm, task, vc.attribute(lm, task, units="neurons", **QUIET), top=10, sample=40, out=out, **QUIET
    ),
    "ablation study": lambda lm, task, out: vc.behaviour.ablation_study(
        lm, task, units=["a0.h0", "a1.h1"], out=out, **QUIET
    ),
    "discover": lambda lm, task, out: vc.discover(lm, task, edges=40, held_out=the_task(5)[3:], out=out, **QUIET),
}


@contextmanager
def deadline() -> Iterator[None]:
    """Raise TimeoutError in whatever takes too long."""

    def late(*_: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(DEADLINE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def same(one: Any, other: Any) -> bool:
    """Whether two results have the same numbers, to the last bit."""
    return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(values(one), values(other), strict=True))


def kills(count: int, seed: int) -> Counter[str]:
    """Kill calls at random moments and call again."""
    resume._KEEP_EVERY = 0.0  # every finished piece is written, so that a kill can fall into a write
    drawn, found = random.Random(seed), Counter()
    lm, task = the_model(), the_task()
    for number in range(count):
        name = list(CALLS)[number % len(CALLS)]
        call = CALLS[name]
        with tempfile.TemporaryDirectory() as folder:
            began = time.monotonic()
            whole = call(lm, task, Path(folder) / "whole")
            took = time.monotonic() - began
            out = Path(folder) / "killed"
            child = os.fork()
            if child == 0:
                try:
                    call(lm, task, out)
                finally:
                    os._exit(0)
            time.sleep(drawn.random() * took)
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            found["killed" if os.WIFSIGNALED(status) else "finished before the kill"] += 1
            try:
                with deadline():
                    found["lost or changed" if not same(call(lm, task, out), whole) else "the same numbers"] += 1
            except TimeoutError:
                found["hung"] += 1
    return found


@contextmanager
def small_disk(folder: Path, kibibytes: int) -> Iterator[Path]:
    """A folder that holds so much and no more."""
    place = folder / f"disk-{kibibytes}"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (kibibytes * 1024, limits[1]))
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def disks() -> Counter[str]:
    """Every call, and saving its result, where there is hardly any room."""
    found: Counter[str] = Counter()
    lm, task = the_model(), the_task()
    with tempfile.TemporaryDirectory() as folder:
        for kibibytes in (4, 8, 16, 32, 64, 128, 256):
            for name, call in CALLS.items():
                where = Path(folder) / name.replace(" ", "-")
                where.mkdir(exist_ok=True)
                with small_disk(where, kibibytes) as disk:
                    for what in (lambda: call(lm, task, disk / "out"), lambda: save(call(lm, task, None), disk)):  # noqa: B023
                        found[outcome(what, f"disk of {kibibytes} KiB, {name}")] += 1
                    left = [path for path in disk.rglob("*") if path.is_file() and path.stat().st_size == 0]
                    found["empty files left"] += len(left)
    return found


def save(result: Any, disk: Path) -> None:
    """Save a result under a name of its own."""
    result.save(disk / ("folder" if isinstance(result, vc.discovery.Discovery) else "result.safetensors"))


def outcome(what: Callable[[], Any], told: str) -> str:
    """How a call ended."""
    try:
        with deadline():
            what()
    except vc.VeracausaError as error:
        return f"our {type(error).__name__}"
    except TimeoutError:
        return "hung"
    except Exception as error:
        print(f"{told}: {type(error).__name__}: {error}", file=sys.stderr)
        return "another exception"
    return "done"


def threads(rounds: int) -> Counter[str]:
    """Two threads call on one model at the same time."""
    found: Counter[str] = Counter()
    lm, task = the_model(), the_task()
    asked = [
        lambda: vc.exact(lm, task, units="heads", **QUIET).values,
        lambda: vc.attribute(lm, task, units="neurons", method="ig", **QUIET).values,
        lambda: vc.attribute(lm, task, units="edges", method="relp", **QUIET).values,
    ]
    alone = [one() for one in asked]
    implementation, training = lm.hf.config._attn_implementation, lm.hf.training

    def run(turn: int) -> None:
        for number in range(rounds):
            which = (number + turn) % len(asked)
            try:
                same_numbers = torch.equal(asked[which](), alone[which])
                found["the same numbers" if same_numbers else "other numbers"] += 1
            except vc.VeracausaError as error:
                found[f"our {type(error).__name__}"] += 1
            except Exception as error:
                print(f"threads: {type(error).__name__}: {error}", file=sys.stderr)
                found["another exception"] += 1

    both = [threading.Thread(target=run, args=(turn,)) for turn in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(DEADLINE * 5)
    found["hung"] += sum(one.is_alive() for one in both)
    as_it_was = lm.hf.config._attn_implementation == implementation and lm.hf.training == training
    found["model left changed"] += not as_it_was
    return found


def main() -> None:
    """Run all parts and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=91)
    parser.add_argument("--rounds", type=int, default=42, help="calls of each thread")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    parts = {
        f"kill −9 at {given.kills} moments": lambda: kills(given.kills, given.seed),
        "full disks": disks,
        f"two threads, {given.rounds} calls each": lambda: threads(given.rounds),
    }
    print(header(" ".join(["python", *sys.argv])), "\n")
    rows = []
    for name, run in parts.items():
        counts = {what: count for what, count in sorted(run().items()) if count}
        rows.append([name, ", ".join(f"{count} {what}" for what, count in counts.items())])
        print(rows[-1], file=sys.stderr)
    print(table(["what", "how it ended"], rows))


if __name__ == "__main__":
    main()
