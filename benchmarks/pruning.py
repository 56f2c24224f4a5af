"""Which ranking cuts best? Rankings of parts at growing sizes, judged on held-out pairs and on plain text.

Every ranking is made on one half of the pairs of each task (a part that any task needs stays), and every size of each
is cut whole and run: metric and accuracy on the other halves, KL and perplexity on plain text. Seeds draw other pairs,
another split and another order of the text, and the random ranking. What has ended is kept in OUT, a folder for each
seed; run it again to go on. By count of one seed (32 pairs a task, 8,192 tokens): six rankings of six sizes are 37
runs of all held-out pairs and of the text; exact rankings of heads are 270 suffix runs a pair, of neurons 46,080.

    python benchmarks/pruning.py --out out/pruning                                # neurons, the six usual rankings
    python benchmarks/pruning.py --units heads --out out/pruning-heads             # with exact effects among them
    python benchmarks/pruning.py --units heads+neurons --rounds 4 --out out/pruning-rounds
    python benchmarks/pruning.py --n 8 --seeds 1 --sizes 0.1,0.3 --tokens 512       # small, to see that it runs
    python benchmarks/pruning.py --collect out/pruning                              # the tables again, nothing is run
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from common import header, table

import veracausa as vc
from veracausa.pruning.names import RANKINGS

#: Exact effects of all neurons are dear, so that of neurons AtP of both kinds is judged instead.
USUAL = {
    "neurons": "fgp,atp-mean,atp-zero,wanda,magnitude,random",
    "": "fgp,exact-mean,atp-mean,wanda,magnitude,random",
}


def run(lm: vc.Model, seed: int, given: argparse.Namespace) -> Path:
    """All rankings and sizes of one seed; where the result is."""
    folder = given.out / f"seed-{seed}"
    path = folder / "pruned.safetensors"
    if path.exists():
        return path
    tasks = [vc.tasks.build(name, lm, n=given.n, seed=seed) for name in given.tasks.split(",")]
    sizes = [float(size) for size in given.sizes.split(",")]
    found = vc.pruning.prune(
        lm, tasks, how=given.how.split(","), units=given.units, share=sizes[-1], sizes=sizes, ablation=given.ablation,
        rounds=given.rounds, text=given.text, tokens=given.tokens, seed=seed, out=folder,
    )  # fmt: skip
    found.page(folder / "report.html")
    return found.save(path)


def collected(paths: list[Path]) -> str:
    """Means over seeds ± their standard errors: metric and accuracy of each task, KL and perplexity of the text; and
    how far each ranking is from the best, seed by seed, since all rankings of a seed are judged on the same pairs."""
    found = [vc.open(path) for path in paths]
    frame = pd.concat([one.table().assign(seed=i) for i, one in enumerate(found)])
    lines = [f"{found[0].describe().splitlines()[0]} · {len(paths)} seeds · of each {_judged_on(found[0])}", ""]
    for on, own in frame.groupby("on", sort=False):
        figures = ("kl", "perplexity") if on == "plain text" else ("metric", "accuracy")
        for figure in figures:
            lines += [f"**{on}, {figure}**", "", _by_size(own, figure), ""]
            lines += [_best(own, figure, size) for size in _sizes(own)]
            lines.append("")
    return "\n".join(lines)


def _judged_on(found: vc.pruning.Pruned) -> str:
    """ "6 held-out pairs of ioi, 6 of greater-than, and topics of …"."""
    pairs = [f"{own.shape[1]} of {task['name']}" for own, task in zip(found.metric, found.tasks, strict=True)]
    return f"{', '.join(pairs)} (held out), and {found.said}"


def _sizes(own: pd.DataFrame) -> list[float]:
    return sorted(float(size) for size in own["size"].unique() if size)


def _by_size(own: pd.DataFrame, figure: str) -> str:
    """A row for each ranking, a column for each size; the full model first."""
    stats = own.groupby(["ranking", "size"], sort=False)[figure].agg(["mean", "sem"])

    def cell(ranking: str, size: float) -> str:
        mean, error = stats.loc[(ranking, size)]
        return f"{mean:.3g}" + ("" if error != error else f" ± {error:.2g}")

    rankings = [name for name in own["ranking"].unique() if name != "full model"]
    full = cell("full model", 0.0)
    rows = [[name, full, *(cell(name, size) for size in _sizes(own))] for name in rankings]
    return table(["ranking", "nothing cut", *(f"{size:.0%}" for size in _sizes(own))], rows)


def _best(own: pd.DataFrame, figure: str, size: float) -> str:
    """The best ranking at a size, and by how much the others are worse: mean over seeds ± standard error."""
    by_seed = own[own["size"] == size].pivot_table(index="seed", columns="ranking", values=figure, sort=False)
    order = by_seed.mean().sort_values(ascending=figure in ("kl", "perplexity")).index
    gaps = {name: by_seed[name] - by_seed[order[0]] for name in order[1:]}
    told = ", ".join(f"{name} {gap.mean():+.3g} ± {gap.sem():.2g}" for name, gap in gaps.items())
    return f"* {size:.0%}: {order[0]}; against it {told}"


def main() -> None:
    """Run all seeds, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tasks", default="ioi,greater-than", help="ranked on and judged on together")
    parser.add_argument("--units", default="neurons")
    parser.add_argument("--how", default="", help=f"of {', '.join(RANKINGS)}; default: six of them")
    parser.add_argument("--sizes", default="0.05,0.1,0.2,0.3,0.4,0.5", help="shares of the parts' parameters")
    parser.add_argument("--ablation", default="zero", choices=["zero", "mean"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--n", type=int, default=64, help="pairs of each task, half of them held out")
    parser.add_argument("--text", default="python", help="a file, or python")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("out/pruning"))
    parser.add_argument("--collect", type=Path, help="only print the tables of this folder")
    given = parser.parse_args()
    given.how = given.how or USUAL.get(given.units, USUAL[""])
    command = "python benchmarks/pruning.py"
    if given.collect:
        print(collected(sorted(given.collect.glob("seed-*/pruned.safetensors"))))
        return
    lm = vc.load(given.model, device=given.device)
    paths = [run(lm, seed, given) for seed in range(given.seeds)]
    print(f"{header(f'{command} --units {given.units} --device {given.device}')}\n\n{collected(paths)}")


if __name__ == "__main__":
    main()
