"""Commands about states of a run: noised and restored (causal tracing), or steered at several scales."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from veracausa.cli.checks import scales_of, span_of, units_of
from veracausa.cli.command import spread
from veracausa.cli.effects import finish_scores
from veracausa.cli.foretelling import foretold
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.replacing import tensors_of
from veracausa.cli.setup import Setup
from veracausa.cli.unit_options import NoiseDraws, Restored, Scales, Sd, Span, Steered, TensorFile, Window
from veracausa.errors import MethodError
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.effects.steering_curves import Steering
    from veracausa.scores.scores import Scores


@spread
def trace(
    setup: Setup,
    span: Span = "subject",
    units: Restored = "residual",
    window: Window = 1,
    sd: Sd = 3.0,
    draws: NoiseDraws = 10,
) -> None:
    """Causal tracing: noise the embeddings of a span, restore one state at a time, read the metric."""
    from veracausa.effects.tracing import causal_tracing, require_tracing

    where = span_of(span)
    require_tracing(units, window, draws, sd)
    lm, task = setup.ready()
    asked: dict[str, Any] = {"span": where, "units": units, "window": window, "sd": sd, "draws": draws}
    found: Scores = foretold(causal_tracing, lm, task, {"out": setup.out}, seed=setup.seed, **asked)
    finish_scores(setup, found, f"tracing-{units}")


@spread
def steer(
    setup: Setup, tensor: TensorFile = None, units: Steered = None, scales: Scales = "-8,-4,-2,-1,1,2,4,8"
) -> None:
    """Steering: add your own vectors to units, one unit at a time, at several scales, and read the metric."""
    from veracausa.effects.steered import steering
    from veracausa.units.resolve import resolve_units

    wanted = scales_of(scales)
    chosen = None if units is None else units_of(units)
    given = tensors_of(tensor, "steer")
    if chosen is None and given.one is not None:
        raise MethodError("One tensor for all units does not say which they are: add --units, such as --units r10.")
    lm, task = setup.ready()
    vectors = given.by_name if chosen is None else given.of(resolve_units(lm, chosen, max(task.lengths)))
    asked: dict[str, Any] = {"vectors": vectors, "units": chosen, "scales": wanted}
    found: Steering = foretold(steering, lm, task, {"out": setup.out}, **asked)

    def show() -> None:
        echo(found)
        echo(f"\n{found.table().drop(columns='n').to_string(index=False, na_rep='–', float_format='{:+.4g}'.format)}")

    finish(
        setup.json, show, lambda: body_of(found),
        lambda out: with_csv(found.save(out / "steering.safetensors"), found.table()), setup.out, " and steering.csv",
    )  # fmt: skip
