"""Sweeps: what many items and many pairs cost to put together, an item beside its numbers, workers side by side.

    python benchmarks/sweeps.py items [COUNT]      # opening, state, merging, totals of so many small items
    python benchmarks/sweeps.py million            # a million pairs × 300 units, float32: totals, Parquet, a query
    python benchmarks/sweeps.py overhead           # an item beside its numbers, on a tiny model
    python benchmarks/sweeps.py workers            # pool and Ray at two workers over one process, SmolLM2-135M
    python benchmarks/sweeps.py memory             # what two workers' weights take together, SmolLM2-135M
    python benchmarks/sweeps.py gpu [PAIRS]        # one GPU: pools of 2 and 4 workers over one process, bare rate
    python benchmarks/sweeps.py paper              # all heads of Llama-3-70B over 100 tasks, by the forecast

Numbers of the first two are drawn, so they need no model; every figure is of a process of its own.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1] / "tests" / "helpers"), str(HERE.parent)]


def drawn(units: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Effects of some pairs, keyed by the first of them: unit u's lie around u/100."""

    def numbers(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        draw = np.random.default_rng(int(rows[0]))
        values = draw.standard_normal((len(rows), units), np.float32) + np.arange(units, dtype=np.float32) / 100
        ends = draw.standard_normal((2, len(rows)), np.float32)
        return values, ends[0] + 5, ends[1]

    return numbers


def laid(folder: Path, pairs: int, units: int, each: int) -> None:
    """A finished sweep of one cell, cut into items of `each` pairs."""
    from made_up_sweeps import lay, neurons

    os.fsync = lambda file: None  # the numbers are drawn: nothing is lost if they do not reach the disk
    cut = [(range(first, min(pairs, first + each)), None) for first in range(0, pairs, each)]
    lay(folder, neurons(units), pairs, {"exact": (drawn(units), cut)})


#: What is timed in a process of its own: name → program; `sweep` is the folder, opened.
STEPS = {
    "open it and say its state": "sweep.describe()",
    "merge": "sweep[0]",
    "totals": "sweep.totals(0)",
    "Parquet": "print(sum(path.stat().st_size for path in sweep.export()))",
}
RUN = """
import resource, sys, time
import pandas, scipy.stats, torch
import veracausa as vc, veracausa.sweeps.results, veracausa.scores.scores
def peak():  # not getrusage: a new program begins with the peak of the one that started it
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
used = resource.getrusage(resource.RUSAGE_SELF)
before, began, busy = peak(), time.perf_counter(), used.ru_utime + used.ru_stime
sweep = vc.open(sys.argv[1])
opened = time.perf_counter() - began
exec(sys.argv[2])
used = resource.getrusage(resource.RUSAGE_SELF)
print(opened, time.perf_counter() - began, (peak() - before) / 1024, used.ru_utime + used.ru_stime - busy)
"""


def stepped(folder: Path) -> None:
    """Seconds, processor seconds and peak memory of every step, each in a process of its own."""
    for name, program in STEPS.items():
        done = subprocess.run([sys.executable, "-c", RUN, folder, program], capture_output=True, text=True, check=True)
        *more, last = done.stdout.strip().splitlines()
        opened, seconds, peak, busy = map(float, last.split())
        size = f", {int(more[-1]) / 1e9:.2f} GB" if more else ""
        print(f"| {name}{size} | {seconds:.1f} | {opened:.1f} | {busy:.1f} | {peak:,.0f} |", flush=True)


@contextmanager
def scratch():
    """A folder that is there for a while."""
    folder = Path(tempfile.mkdtemp(dir=Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def many(pairs: int, units: int, each: int) -> None:
    """Lay a sweep, say its size, and step through it."""
    with scratch() as folder:
        began = time.perf_counter()
        laid(folder / "sweep", pairs, units, each)
        sizes = [path.stat().st_size for path in (folder / "sweep" / "items").iterdir()]
        listed = (folder / "sweep" / "sweep.json").stat().st_size
        print(
            f"{len(sizes):,} items of {each} pairs × {units} units: {sum(sizes) / 1e9:.2f} GB, sweep.json "
            f"{listed / 1e6:.1f} MB, written in {time.perf_counter() - began:.0f} s (peak "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB)\n"
        )
        print("| step | seconds | of these, opening | processor seconds | peak memory beside imports, MB |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        stepped(folder / "sweep")
        if pairs >= 1_000_000:
            queried(folder / "sweep")


def queried(folder: Path) -> None:
    """The guide's query over the Parquet file."""
    import duckdb

    began = time.perf_counter()
    asked = f"SELECT unit, avg(effect) AS mean FROM '{folder}/parquet/*.parquet' GROUP BY unit"
    means = duckdb.sql(asked).df().set_index("unit")["mean"]
    worst = max(abs(means[f"m0.n{u}"] - u / 100) for u in range(len(means)))
    took = time.perf_counter() - began
    print(f"\nDuckDB, means of {len(means)} units: {took:.1f} s; farthest from u/100: {worst:.4f}")


def paper() -> None:
    """All heads of Llama-3-70B, exactly, over 100 tasks on 64 GPUs, on paper.

    Token-layers do not depend on the width, so they are those of the forecast for a narrow model of random weights with
    the same blocks, heads and key/value heads, on pairs as SmolLM2's tokenizer splits them.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import veracausa as vc

    tokenizer = vc.load("smollm2-135m").tokenizer
    wide, inner, layers, heads, shared = 8192, 28672, 80, 64, 8
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": shared, "head_dim": 2}
    sizes |= {"vocab_size": len(tokenizer), "hidden_size": 2 * heads, "intermediate_size": 8, "pad_token_id": None}
    torch.manual_seed(0)
    narrow = LlamaConfig(**sizes)
    lm = vc.load(LlamaForCausalLM(narrow).eval(), tokenizer)
    task = vc.tasks.ioi(lm, n=64)
    count = vc.forecast(vc.exact, lm, task, units="heads").token_layers
    block = wide * (2 * wide + 2 * shared * wide // heads) + 3 * wide * inner
    flop, rate = 2.0 * block * count, 0.42 * 768e12  # as measured of every head of an 8B shape on an H100 (RESULTS.md)
    print(f"{task.describe()} {heads * layers:,} heads: {count:,.0f} token-layers")
    print(f"a token-layer: 2 × {block / 1e6:.0f} million operations")
    print(f"a task: {flop:.3g} operations, {flop / rate / 3600:.2f} h at {rate / 1e12:.0f} TFLOP/s")
    for workers in (32, 64):
        print(f"100 tasks, {workers} workers: {100 * flop / rate / workers / 3600:.2f} h")
    items = 100 * flop / rate / 600
    numbers = 100 * 64 * heads * layers * 4
    print(
        f"items of ten minutes: {items:,.0f}; {numbers / 1e6:.0f} MB of effects; 141 GB of weights in bfloat16"
    )


MEMORY = """
import re, sys, veracausa as vc
lm = vc.load("smollm2-135m")
vc.exact(lm, vc.tasks.ioi(lm, n=4), units="heads", show_progress=False)
print("ready", flush=True)
sys.stdin.readline()
sums = {}
for line in open("/proc/self/smaps"):
    if head := re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
        own = "weights" if line.rstrip().endswith("model.safetensors") else "other"
    elif line.startswith(("Rss:", "Pss:", "Private_Dirty:")):
        key = own, line.split(":")[0]
        sums[key] = sums.get(key, 0) + int(line.split()[1])
print({" ".join(key): f"{kilobytes / 1024:.0f} MB" for key, kilobytes in sums.items()})
"""


def memory() -> None:
    """Resident and proportional (shared pages divided) memory of two processes that each ran SmolLM2-135M."""
    pipe = subprocess.PIPE
    workers = [subprocess.Popen([sys.executable, "-c", MEMORY], stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:  # both are there while each is looked at
        worker.stdin.write("\n")
        worker.stdin.flush()
        print(worker.stdout.readline().strip())


def tiny(folder: Path) -> dict[str, object]:
    """A model of random weights, and the plan of one cell about it."""
    from command_line import model_folder, pairs_file

    pairs = [(f"{a} {b} near the {c}", f"{a} {d} near the {c}", " are", " is")
             for a in ("After the", "the") for b, d in (("keys", "key"),) for c in ("cabinet", "store")]  # fmt: skip
    model = {"name": str(model_folder(folder / "model")), "device": "cpu"}
    task = {"file": str(pairs_file(folder / "pairs.csv", pairs))}
    return {"models": [model], "tasks": [task], "questions": [{"ask": "exact", "units": "neurons"}], "seconds": 1e-9}


def overhead() -> None:
    """Processor time of an item beside what one process needs for all of them, where every item is one row."""
    import veracausa as vc
    from veracausa.sweeps import items

    items._count = lambda whole, fixed, seconds, most: most  # one item a pair and unit
    with scratch() as folder:
        plan = tiny(folder)
        lm = vc.load(str(folder / "model"), device="cpu")
        task = vc.task(lm, folder / "pairs.csv")
        vc.exact(lm, task, units="neurons", show_progress=False)
        began = time.process_time()
        vc.exact(lm, task, units="neurons", show_progress=False)
        alone, began = time.process_time() - began, time.process_time()
        vc.sweep(plan, out=folder / "cut", show_progress=False)
        sweep, swept = vc.open(folder / "cut"), time.process_time() - began
        count, began = len(sweep.folder.items), time.process_time()
        part = sweep.folder.items[0].part
        from veracausa.sweeps.asking import Asked

        asked = Asked.of(sweep.folder.cells[0], lm)
        for _ in range(20):
            asked.run(part)
        run = (time.process_time() - began) / 20
        done = sum(sweep.folder.taken().values())
        print(
            f"{count} items: {1000 * swept / count:.1f} ms of processor an item with cutting, claim, file and run; "
            f"{1000 * run:.1f} ms for the run of its part alone; all {count} rows in one call {1000 * alone:.0f} ms. "
            f"By the clock, loading included: {1000 * done / count:.1f} ms an item"
        )


#: A coordinator of its own, whose clock may be wrong by so many seconds.
COORDINATOR = """
import sys, time
real, apart = time.time, float(sys.argv[3])
time.time = lambda: real() + apart
import veracausa as vc
from veracausa.sweeps import items
items._count = lambda whole, fixed, seconds, most: min(most, 8)
try:
    vc.sweep(eval(sys.argv[1]), out=sys.argv[2], show_progress=False)
except vc.VeracausaError as error:
    print(type(error).__name__, str(error)[:160])
"""


def counted(out: Path) -> str:
    """Items, how many were done more than once, and failures, as the workers' own lists have it."""
    import veracausa as vc

    lines = [line for path in (out / "taken").glob("*.csv") for line in path.read_text().split()]
    each = {}
    for line in lines:
        each[line.split(",")[0]] = each.get(line.split(",")[0], 0) + 1
    sweep = vc.open(out)
    twice, failed = sum(count > 1 for count in each.values()), len(list((out / "failed").glob("*")))
    return f"{len(sweep.folder.items)} items, done twice: {twice}, failures: {failed}, finished: {sweep.finished}"


def faults() -> None:
    """Two coordinators on one folder, the same with clocks an hour apart, and a disk that fills up (needs root)."""

    def begun(plan: object, out: Path, apart: float = 0.0) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", COORDINATOR, repr(plan), str(out), str(apart)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    from veracausa.sweeps import items
    from veracausa.sweeps.plan import plan_of
    from veracausa.sweeps.sweep import laid_out

    items._count = lambda whole, fixed, seconds, most: min(most, 8)
    with scratch() as folder:
        plan = tiny(folder)
        for name, apart in (("two coordinators", 0.0), ("clocks an hour apart", 3600.0)):
            both = [begun(plan, folder / name, apart * number) for number in (0, 1)]
            said = [one.communicate()[0].strip() for one in both]
            print(f"{name}: {counted(folder / name)}", *filter(None, said), flush=True)
        disk = folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
        try:
            laid_out(plan_of(plan), disk / "out", show_progress=False)
            subprocess.run(["mount", "-o", "remount,size=100k", disk], check=True)
            print("full disk:", begun(plan, disk / "out").communicate()[0].strip(), flush=True)
            print("  then:", counted(disk / "out"), flush=True)
            subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
            print("  with space:", begun(plan, disk / "out").communicate()[0].strip(), counted(disk / "out"))
        finally:
            subprocess.run(["umount", disk], check=True)


def processor() -> float:
    """Processor seconds of the programs that were started and have ended, and of those that they waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def workers() -> None:
    """Seconds of one process with two threads, two pool workers and two Ray tasks, in turn, three times."""
    import veracausa as vc

    plan = {"models": ["smollm2-135m"], "tasks": [{"name": "ioi", "n": 4}], "seconds": 4,
            "questions": [{"ask": "exact", "units": "heads"}]}  # fmt: skip
    code = "import veracausa as vc; vc.sweep({!r}, out={!r}, runner={!r}, show_progress=False{})"
    with scratch() as folder:
        from veracausa.sweeps.plan import plan_of
        from veracausa.sweeps.sweep import laid_out

        laid_out(plan_of(plan), folder / "cut", show_progress=False)
        print(f"{len(vc.open(folder / 'cut').folder.items)} items", flush=True)
        for turn in range(3):
            took = {}
            for runner in ("local", "pool", "ray"):
                out = folder / f"{runner}-{turn}"
                shutil.copytree(folder / "cut", out)
                more = "" if runner == "local" else ", workers=2"
                began, busy = time.perf_counter(), processor()
                threads = {"OMP_NUM_THREADS": "2" if runner == "local" else "1"}
                program = code.format(plan, str(out), runner, more)
                subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | threads)
                took[runner] = f"{time.perf_counter() - began:.1f} s, of processors {processor() - busy:.1f} s"
            print(took, flush=True)


def smollm2_shape(folder: Path) -> Path:
    """A model of SmolLM2-135M's shape with random weights, in a folder, whose tokenizer knows a few words."""
    import torch
    from command_line import TEXT
    from transformers import AutoModelForCausalLM, LlamaConfig
    from word_tokenizer import word_tokenizer

    tokenizer = word_tokenizer(TEXT.split())
    torch.manual_seed(0)
    sizes = {"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
    sizes |= {"num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True, "pad_token_id": None}
    AutoModelForCausalLM.from_config(LlamaConfig(**sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def long_pairs(path: Path, count: int) -> Path:
    """Pairs of 16 words that first differ at the tenth."""
    from command_line import TEXT, pairs_file

    words, draw = [word for word in TEXT.split() if word.isalpha()], np.random.default_rng(0)
    rows = []
    for _ in range(count):
        some = draw.choice(words, 16).tolist()
        other = [*some[:9], next(word for word in words if word.lower() != some[9].lower()), *some[10:]]
        rows.append((" ".join(some), " ".join(other), " are", " is"))
    return pairs_file(path, rows)


def bare_rate(model: Path) -> float:
    """Token-layers a second of forward passes of the bare model, 1,024 prompts of 16 tokens at once, float32."""
    import torch

    import veracausa as vc

    lm = vc.load(str(model))
    ids = torch.randint(5, 20, (1024 if lm.device.type == "cuda" else 16, 16), device=lm.device)
    took = []
    with torch.no_grad():
        for _ in range(5):
            began = time.perf_counter()
            float(lm.hf(ids, logits_to_keep=1).logits.sum())  # waits for the device
            took.append(time.perf_counter() - began)
    return ids.numel() * lm.layers / min(took)


GPU_RUN = """
import sys, veracausa as vc
vc.sweep(eval(sys.argv[1]), out=sys.argv[2], show_progress=False, **eval(sys.argv[3]))
"""


def gpu(pairs: str = "256") -> None:
    """Token-layers a second of a sweep on one GPU: one process, then pools of 2 and 4 workers; the bare forward's.

    Of the whole command, and from when the first item is begun until the last is done, so without imports and loading.
    All do the same items (exact effects of all heads); their numbers are compared.
    """
    import torch

    columns = ("workers", "items", "s, command", "token-layers/s", "without loading", "of bare", "/ one", "differs")
    with scratch() as folder:
        model, file = smollm2_shape(folder / "model"), long_pairs(folder / "pairs.csv", int(pairs))
        plan = {"models": [str(model)], "tasks": [{"file": str(file)}], "seconds": 0.2,
                "questions": [{"ask": "exact", "units": "heads"}]}  # fmt: skip
        name, rate = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU", bare_rate(model)
        print(f"{name}, {pairs} pairs of 16 tokens, float32; bare forward: {rate:,.0f} token-layers/s\n")
        print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
        one = None
        for workers in (0, 2, 4):
            out, how = folder / f"of-{workers}", {"runner": "pool", "workers": workers} if workers else {}
            if workers:  # cut as the first was
                shutil.copytree(folder / "of-0", out, ignore=shutil.ignore_patterns("items", "taken", "results"))
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", GPU_RUN, repr(plan), out, repr(how)], check=True)
            took, found = time.perf_counter() - began, finished(out)
            one = one or found
            tokens, steady, values = found
            apart = float((values - one[2]).abs().max() / one[2].abs().max())
            cells = (workers or "one process", len(os.listdir(out / "items")), f"{took:.1f}", f"{tokens / took:,.0f}",
                     f"{steady:,.0f}", f"{steady / rate:.1%}", f"{steady / one[1]:.2f}", f"{apart:.0e}")  # fmt: skip
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def finished(out: Path) -> tuple[float, float, Any]:
    """Token-layers of a sweep, those a second from the first item's beginning to the last's end, its effects."""
    import veracausa as vc

    sweep = vc.open(out)
    took, every = sweep.folder.taken(), sweep.folder.items
    ends = [sweep.folder.shard(item).stat().st_mtime for item in every]
    began = min(end - took[item.id] for end, item in zip(ends, every, strict=True))
    tokens = sum(item.token_layers for item in every)
    return tokens, tokens / (max(ends) - began), sweep[0].values


PARTS: dict[str, Callable[..., None]] = {
    "paper": paper, "memory": memory, "overhead": overhead, "faults": faults, "workers": workers, "gpu": gpu,
}  # fmt: skip


def main(what: str = "items", *count: str) -> None:
    """Run one part."""
    if what == "items":
        many(10 * int(*count or ("100000",)), 30, 10)
    elif what == "million":
        many(1_000_000, 300, 2_000)
    elif what in PARTS:
        PARTS[what](*count)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
