"""Commands about circuits: find one, and run it on other pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from veracausa.circuits.attacks.budgets import BUDGETS, LARGEST, SIZES, STARTS, STEPS
from veracausa.cli.checks import (
    columns_of,
    numbers_of,
    require_edge_method,
    require_selection,
    require_task,
    several,
    shares_of,
)
from veracausa.cli.command import Options, spread
from veracausa.cli.estimate_options import (
    Attacked,
    Budgets,
    ByPosition,
    EachPair,
    EdgeMethod,
    Edges,
    Goals,
    How,
    Largest,
    RandomWeights,
    Restored,
    Sample,
    Sizes,
    Starts,
    Steps,
    Top,
    WholeNodes,
)
from veracausa.cli.foretelling import foretold
from veracausa.cli.options import HeldOut, OtherModel, OtherSeed, OtherTask
from veracausa.cli.output import body_of, finish, took
from veracausa.cli.setup import PageSetup, TaskSetup
from veracausa.cli.unit_options import Ablation
from veracausa.errors import TaskError
from veracausa.extras import require_extra
from veracausa.storage.files import at
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa import choices
    from veracausa.circuits.attacks.attack import Attack
    from veracausa.discovery.results import Discovery
    from veracausa.model import Model
    from veracausa.tasks.task import Task


@spread
def discover(
    setup: PageSetup,
    method: EdgeMethod = "eap-ig",
    edges: Edges = 200,
    how: How = "connected",
    sizes: Sizes = None,
    held_out: HeldOut = None,
    top: Top = 100,
    sample: Sample = 50,
    attack: Attacked = False,
    positions: ByPosition = False,
) -> None:
    """Find the circuit of a behaviour on half of the pairs, verify its scores, evaluate it on the other half."""
    from veracausa.circuits.quality.curve import SIZES, require_sizes
    from veracausa.discovery.discover import discover as run

    shares = shares_of(sizes) or list(SIZES)
    require_sizes(shares)
    require_edge_method(method)
    require_selection(edges, how)
    if held_out is not None:
        require_task(held_out, setup.metric, columns_of(setup.columns))
    lm, task = setup.ready()
    other = None if held_out is None else setup.build(lm, held_out, setup.seed + 1)
    found = run(
        lm, task, method=cast("choices.EdgeScoring", method), edges=edges, how=cast("choices.Selection", how),
        held_out=other, sizes=shares, top=top, sample=sample, attack=attack, positions=positions,
        seed=setup.seed, out=setup.out,
    )  # fmt: skip
    finish(
        setup.json,
        lambda: echo(f"{found}\n\n{took(found.seconds)}"),
        lambda: {**body_of(found), "evaluation": body_of(found.evaluation)},
        found.save,
        setup.out,
    )


class AgainSetup(TaskSetup):
    """The setup of an evaluation: what is not given is the circuit's own."""

    model: OtherModel = None  # type: ignore[assignment]
    task: OtherTask = None  # type: ignore[assignment]
    seed: OtherSeed = None  # type: ignore[assignment]

    def again(self, folder: Path) -> tuple[Model, Task, Discovery]:
        """Model and pairs for the circuit of a `discover`, and what that found.

        Raises:
            TaskError: no task is named, and the circuit's own cannot be drawn anew.
        """
        from veracausa.discovery.files import load_discovery
        from veracausa.tasks import BUILTIN

        found = load_discovery(folder)
        own = found.pairs.options
        if self.task is None and found.pairs.name not in BUILTIN:
            raise TaskError(
                f"The pairs of {folder} came from {found.pairs.name!r}, which cannot be drawn anew: add --task TASK or "
                "FILE"
            )
        lm, task = self.but(
            task=self.task or found.pairs.name,
            model=self.model or found.circuit.model["name"],
            metric=self.metric or found.pairs.metric,
            corruption=self.corruption or (own.get("corruption") if self.task is None else None),
            digits=self.digits or (own.get("digits") if self.task is None else None),
            seed=int(own.get("seed", 0)) + 1 if self.seed is None else self.seed,
        ).ready()
        return lm, task, found


@spread
def evaluate(
    setup: AgainSetup,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a `veracausa discover`.", parser=at)],
    sizes: Sizes = None,
    ablation: Ablation = "counterfactual",
    attack: Attacked = False,
) -> None:
    """Run a circuit that was found before on other pairs; adds a section to its page and tables to its folder.

    Without --task, --model, --metric, --corruption and --digits they are the circuit's own, and the pairs are drawn
    with the next seed. --ablation says what the edges outside the circuit carry; --attack has an adversary choose which
    of them carry their own again.
    """
    from veracausa.circuits.attacks.attacking import require_attack
    from veracausa.circuits.quality.curve import require_sizes
    from veracausa.circuits.runs.ablations import require_ablation
    from veracausa.discovery.other_tasks import evaluate as run

    require_extra("charts")
    shares = shares_of(sizes)
    if shares is not None:
        require_sizes(shares)
    require_ablation(ablation)
    if attack:
        require_attack(["sparse"], ablation)
    lm, task, _ = setup.again(folder)
    evaluation = run(lm, folder, task, sizes=shares, ablation=cast("choices.Ablation", ablation), attack=attack)
    page = str((folder / "report.html").resolve())
    finish(setup.json, lambda: echo(f"{evaluation}\n\nPage: {page}"), lambda: {**body_of(evaluation), "page": page})


class Attacking(Options):
    """What an adversary may do."""

    budgets: Budgets = ",".join(BUDGETS)
    restored: Restored = ",".join(map(str, SIZES))
    largest: Largest = ",".join(map(str, LARGEST))
    steps: Steps = ",".join(map(str, STEPS))
    goals: Goals = "down,up"
    starts: Starts = ",".join(STARTS)
    each: EachPair = False
    whole_nodes: WholeNodes = False
    draws: RandomWeights = 3
    ablation: Ablation = "counterfactual"

    def asked(self) -> dict[str, Any]:
        """Arguments of `vc.circuits.adversary`.

        Raises:
            MethodError: something there is not, or what is no list of numbers that rise.
        """
        from veracausa.circuits.attacks.attacking import require_amounts, require_attack

        budgets, goals, starts = map(several, (self.budgets, self.goals, self.starts))
        require_attack(budgets, self.ablation, goals, starts, self.draws)
        amounts: dict[str, list[Any]] = {
            "sizes": numbers_of(self.restored, int, "restored", "numbers", "10,30,100"),
            "largest": numbers_of(self.largest, float, "largest", "weights", "0.1,0.3,1"),
            "steps": numbers_of(self.steps, int, "steps", "numbers", "1,4,16"),
        }
        require_amounts(dict(zip(BUDGETS, amounts.values(), strict=True)))
        parts = "nodes" if self.whole_nodes else "edges"
        own = {"budgets": budgets, "goals": goals, "starts": starts, "draws": self.draws, "ablation": self.ablation}
        return {**own, **amounts, "each": self.each, "parts": parts}


@spread
def adversary(
    setup: AgainSetup,
    attacking: Attacking,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a `veracausa discover`.", parser=at)],
) -> None:
    """Attack a circuit that was found before: which other edges, restored, change what it does, and how many it takes.

    Without --task, --model, --metric, --corruption and --digits they are the circuit's own, and the pairs are drawn
    with the next seed. The adversary sees half of the pairs; what it finds is run on the other half, too. The attack is
    kept in the folder, with a page of its own; a killed run goes on from its finished pieces.
    """
    from veracausa.circuits.attacks.attacking import adversary as run
    from veracausa.circuits.circuit import Circuit

    asked = attacking.asked()
    require_extra("charts")
    lm, task, found = setup.again(folder)
    half, circuit = (len(task) + 1) // 2, found.circuit
    if attacking.whole_nodes:
        circuit = Circuit.of_nodes(lm, circuit.nodes)
    attack: Attack = foretold(
        run, lm, task[:half], {"out": folder}, circuit=circuit, held_out=task[half:] if task[half:] else None, **asked
    )
    own = "-nodes" if attacking.whole_nodes else ""
    path = folder / f"attack{own}-{attack.task['digest']}.safetensors"
    finish(
        setup.json,
        lambda: echo(f"{attack}\n\n" + "\n".join(attack.sentences)),
        lambda: body_of(attack),
        lambda _: _with_page(attack, path),
        folder,
        f" and {path.with_suffix('.html').name}",
    )


def _with_page(attack: Attack, path: Path) -> Path:
    """Write an attack, and its page beside it."""
    attack.page(path.with_suffix(".html"))
    return attack.save(path)
