"""Commands about units: their exact effects, and estimates of them with receipts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from veracausa.cli.checks import require_estimate, require_reference, units_of
from veracausa.cli.command import Options, spread
from veracausa.cli.estimate_options import Baseline, Budget, Method, Nodes, Sample, Tau, Top, UntilMissed, Verify
from veracausa.cli.foretelling import foretold
from veracausa.cli.laying import LayingOptions
from veracausa.cli.masking import MaskOptions
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.replacing import ReplacingOptions
from veracausa.cli.setup import Setup
from veracausa.cli.unit_options import AnyAblation, Direction, Reference, Units
from veracausa.errors import MethodError
from veracausa.result import ROWS
from veracausa.scores.estimands import INSTEAD
from veracausa.storage.files import keep, write_text
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.receipts.receipts import Receipt
    from veracausa.receipts.stages import Until
    from veracausa.scores.scores import Scores
    from veracausa.tasks.task import Task


class ReceiptOptions(Options):
    """How far a receipt goes."""

    verify: Verify = False
    top: Top = 50
    sample: Sample = 300
    tau: Tau = 0.01
    until_missed: UntilMissed = None
    budget: Budget = None

    def require(self, method: str, baseline: str | None, seed: int) -> Until | None:
        """What is to be reached; a MethodError for sizes that mean nothing, and for what can have no receipt."""
        if not self.verify:
            if self.until_missed is not None or self.budget is not None:
                raise MethodError("--until-missed and --budget say how far a receipt goes. Add --verify.")
            return None
        from veracausa.receipts.stages import Until
        from veracausa.receipts.verify import require_sizes

        if method == "ifr" or baseline == "optimal":
            what = "shares of a sum" if method == "ifr" else "learned constants"
            raise MethodError(f"There is no exact effect to check {what} against, so no receipt. Leave out --verify.")
        until = None if self.until_missed is None else Until(missed=self.until_missed, tau=self.tau)
        require_sizes(self.top, self.sample, seed, until, self.budget, self.tau)
        return until


@spread
def exact(
    setup: Setup,
    replacing: ReplacingOptions,
    laying: LayingOptions,
    units: Units = "heads",
    ablation: AnyAblation = "counterfactual",
    direction: Direction = "noising",
    reference: Reference = None,
) -> None:
    """Exact causal effects of units: replace each one, run what follows, read the metric."""
    from veracausa.effects.exact import exact as run
    from veracausa.effects.replacements import require_effect

    wanted = units_of(units)
    tensors = replacing.require(ablation, direction, setup.seed)
    if ablation not in INSTEAD:
        require_effect(ablation, direction)
    require_reference(reference, [ablation])
    lm, task = setup.ready()
    lm = laying.on(lm)
    instead = replacing.made(ablation, tensors, lm, task, wanted, setup.seed)
    asked = {"units": wanted, "ablation": instead, "direction": direction, "seed": setup.seed, "reference": reference}
    found: Scores = foretold(run, lm, task, {"out": setup.out}, **asked)
    how = [ablation] * (ablation != "counterfactual") + [direction] * (direction != "noising")
    name = "-".join(["exact", found.units.kind, *how])
    finish_scores(setup, found, name)


@spread
def attribute(
    setup: Setup,
    receipt: ReceiptOptions,
    laying: LayingOptions,
    masking: MaskOptions,
    method: Method = "atp",
    units: Units = "heads",
    baseline: Baseline = None,
    direction: Direction = "noising",
    nodes: Nodes = None,
    reference: Reference = None,
) -> None:
    """Estimates of effects from gradients, or a learned mask; with --verify, how far they can be trusted."""
    from veracausa.estimates.attribute import attribute as estimate

    wanted = units_of(units)
    require_estimate(method, wanted, setup.metric, baseline, direction, nodes)
    masking.require(method)
    require_reference(reference, [baseline or ""])
    until = receipt.require(method, baseline, setup.seed)
    lm, task = setup.ready()
    lm = laying.on(lm)
    if method == "mask":
        scores = masking.learned(lm, task, wanted, setup.seed, setup.out)
    else:
        scores = foretold(
            estimate, lm, task, units=wanted, method=method, baseline=baseline, direction=direction, nodes=nodes,
            reference=reference,
        )  # fmt: skip
    how = [baseline] * (baseline not in (None, "corrupted")) + [direction] * (direction != "noising")
    name = "-".join([scores.method if method == "mask" else method, scores.units.kind, *(part for part in how if part)])
    if receipt.verify:
        _verify(setup, receipt, lm, task, scores, until, name, reference)
    else:
        finish_scores(setup, scores, name)


def _verify(
    setup: Setup,
    options: ReceiptOptions,
    lm: Model,
    task: Task,
    scores: Scores,
    until: Until | None,
    name: str,
    reference: Path | None,
) -> None:
    """Check scores, which are kept first: they are there, whatever becomes of their receipt."""
    from veracausa.receipts.verify import verify

    out = setup.out
    if out is not None:
        keep(lambda: _save_scores(scores, out, name))
    found = verify(
        lm, task, scores, top=options.top, sample=options.sample, tau=options.tau, seed=setup.seed, until=until,
        budget=options.budget, reference=reference, out=out,
    )  # fmt: skip
    finish(
        setup.json,
        lambda: echo(f"{found.scores}\n\n{found}"),
        lambda: {**body_of(found.scores), "receipt": body_of(found)},
        lambda folder: _save_receipt(found, folder, name),
        out,
        f" and {name}-receipt.txt, and the scores as {name}.safetensors and .csv",
    )


def finish_scores(setup: Setup, scores: Scores, name: str) -> None:
    """End a command that computed scores: keep them under a name, print the strongest."""
    finish(
        setup.json,
        lambda: echo(f"{scores}{_further(scores)}"),
        lambda: body_of(scores),
        lambda folder: _save_scores(scores, folder, name),
        setup.out,
        f" and {name}.csv",
    )


def _further(scores: Scores) -> str:
    """What to say behind the strongest units, which are all that is printed."""
    rest = len(scores) - ROWS
    return f"\n… {rest:,} weaker ones: --json prints all, --out keeps them" if rest > 0 else ""


def _save_scores(scores: Scores, out: Path, name: str) -> Path:
    return with_csv(scores.save(out / f"{name}.safetensors"), scores.table())


def _save_receipt(receipt: Receipt, out: Path, name: str) -> Path:
    _save_scores(receipt.scores, out, name)
    path = receipt.save(out / f"{name}-receipt.safetensors")
    write_text(path.with_suffix(".txt"), f"{receipt}\n")
    return path
