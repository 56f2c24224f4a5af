"""What an adversary needs to break circuits that are faithful: restored edges, weights up to ε, free weights.

Circuits of 2% of the edges, strongest by |score|, dead ends dropped: by iterated selection and by eap-ig, on some pairs
of IOI. The adversary sees other pairs; what it chose for all of them is also run on a third set. Finished pieces are
kept in OUT; run it again to continue after a kill.

    python benchmarks/adversary.py --out out/adversary
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import header, table

import veracausa as vc

#: Pairs that circuits are selected on.
SELECTED = 8
SIZES, LARGEST, STEPS = (10, 100, 300, 1000), (0.1, 0.3), (1, 2, 3, 8)


def circuits(lm: vc.Model, name: str, share: float, out: Path) -> dict[str, vc.Circuit]:
    """Both, selected on the first pairs of a task, or as they were kept."""
    task, found = vc.tasks.build(name, lm, n=SELECTED, seed=0), {}
    ways = {
        "iterated": lambda: vc.circuits.iterate(lm, task),
        "eap-ig": lambda: vc.attribute(lm, task, units="edges", method="eap-ig"),
    }
    for way, score in ways.items():
        path = out / f"{name}-{way}-{share:g}.json"
        if not path.exists():
            vc.select(score(), n=round(share * lm.graph.size), how="abs").save(path)
        found[way] = vc.open(path)
    return found


def main() -> None:
    """Attack both circuits, save what was found, and print it as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="ioi")
    parser.add_argument("--share", type=float, default=0.02, help="of the edges that circuits are selected to")
    parser.add_argument("--pairs", type=int, default=8, help="that the adversary sees, and as many held out")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    lm = vc.load(given.model)
    seen, unseen = (vc.tasks.build(given.task, lm, n=given.pairs, seed=seed) for seed in (1, 2))
    found = vc.circuits.adversary(
        lm, seen, circuits(lm, given.task, given.share, given.out), sizes=SIZES, largest=LARGEST, steps=STEPS,
        starts=["zero"], held_out=unseen, draws=2, out=given.out,
    )  # fmt: skip
    found.save(given.out / f"{given.task}-attack.safetensors")
    command = f"python benchmarks/adversary.py --pairs {given.pairs}"
    print(header(command), lm.source, seen.describe(), *found.sentences, found.describe(), sep="\n\n")
    shown = found.table().drop(columns=["weights", "lowest", "way"]).round(3).astype(str).replace("nan", "–")
    print("\n" + table(list(shown.columns), shown.to_numpy().tolist()))


if __name__ == "__main__":
    main()
