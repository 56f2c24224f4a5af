"""Commands that read the stream: the logit lens, and what each write adds to the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from veracausa.cli.checks import layers_of
from veracausa.cli.command import spread
from veracausa.cli.foretelling import foretold
from veracausa.cli.output import body_of, finish, with_csv
from veracausa.cli.setup import Setup
from veracausa.cli.unit_options import Positions, SplitLayers, TopTokens
from veracausa.result import ROWS
from veracausa.terminal import echo

if TYPE_CHECKING:
    from veracausa.reading.attributions import LogitAttribution
    from veracausa.reading.lenses import Lens


@spread
def lens(setup: Setup, tokens: TopTokens = 5) -> None:
    """The logit lens: what the model would say if it stopped at each layer."""
    from veracausa.reading.looking import lens as look

    lm, task = setup.ready()
    found: Lens = foretold(look, lm, task, tokens=tokens)

    def show() -> None:
        echo(found)
        every = found.table().drop(columns="n")
        echo(f"\n{every.to_string(index=False, na_rep='–', float_format='{:.4g}'.format)}")

    _finish(setup, found, show, "lens")


@spread
def dla(setup: Setup, neurons: SplitLayers = None, positions: Positions = False, tokens: TopTokens = 0) -> None:
    """Direct logit attribution: what heads, MLPs and embeddings add to the logits, the final norm frozen."""
    from veracausa.reading.attributing import dla as attribute
    from veracausa.reading.attributing import require_linear

    layers = layers_of(neurons)
    if setup.metric is not None:
        require_linear(setup.metric)
    lm, task = setup.ready()
    found: LogitAttribution = foretold(attribute, lm, task, neurons=layers, positions=positions, tokens=tokens)

    def show() -> None:
        echo(found)
        table = found.top(ROWS).drop(columns="n")
        echo(f"\n{table.to_string(index=False, na_rep='–', float_format='{:+.4g}'.format)}")
        for name in [one for one in table["name"] if tokens and one in found.writers]:
            echo(f"{name} raises {', '.join(map(repr, found.raised(name)))} (pair 0)")

    _finish(setup, found, show, "logit-attribution")


def _finish(setup: Setup, found: Lens | LogitAttribution, show: Callable[[], object], name: str) -> None:
    finish(
        setup.json, show, lambda: body_of(found),
        lambda out: with_csv(found.save(out / f"{name}.safetensors"), found.table()), setup.out, f" and {name}.csv",
    )  # fmt: skip
