"""Commands about what a model answers: ablate units, and see what becomes of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from veracausa.cli.checks import require_reference, units_of
from veracausa.cli.command import spread
from veracausa.cli.foretelling import foretold
from veracausa.cli.options import Pairs
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.setup import Setup
from veracausa.cli.unit_options import Ablations, Names, NewTokens, Reference, Together
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.behaviour.results import AblationStudy


class ManySetup(Setup):
    """The setup of what counts answers: a share takes many prompts, and each is cheap."""

    n: Pairs = 1000


@spread
def ablate(
    setup: ManySetup,
    units: Names,
    ablations: Ablations = "zero,mean",
    together: Together = True,
    new_tokens: NewTokens = 1,
    reference: Reference = None,
) -> None:
    """Ablate units one at a time and together; what becomes of the metric and of the model's greedy answers."""
    from veracausa.behaviour.chosen import require_ablations, require_single
    from veracausa.behaviour.study import ablation_study

    wanted = require_ablations(ablations.split(","))
    require_reference(reference, wanted)
    units_of(units)
    require_single(units.split(","))
    lm, task = setup.ready()
    asked: dict[str, Any] = {"units": units.split(","), "ablations": wanted, "together": together}
    asked |= {"new_tokens": new_tokens, "reference": reference}
    found: AblationStudy = foretold(ablation_study, lm, task, {"out": setup.out}, seed=setup.seed, **asked)
    name = "ablation-study"

    def show() -> None:
        echo(found)
        for sentence in found.sentences:
            echo(f"• {sentence}")

    finish(
        setup.json, show, lambda: body_of(found),
        lambda out: with_csv(found.save(out / f"{name}.safetensors"), found.table()), setup.out, f" and {name}.csv",
    )  # fmt: skip
