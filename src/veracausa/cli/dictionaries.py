"""The command about dictionaries of features: what one is, and how well it fits a model."""

from __future__ import annotations

from typing import Annotated

import typer

from veracausa.cli.command import spread
from veracausa.cli.options import OtherTask
from veracausa.cli.output import print_json, rows_of
from veracausa.cli.setup import TaskSetup
from veracausa.terminal import echo

_PATH = "A folder or file of SAELens, sparsify, dictionary_learning, Gemma Scope, Llama Scope or circuit-tracer, a "
_SITE = "Where it reads: r10 (the stream entering block 10), m10, a10, z10, n10. Needed where the files do not say."

DictionaryPath = Annotated[
    str, typer.Argument(metavar="PATH", help=_PATH + "file with plain tensors, or the name of one that comes along.")
]
ReadSite = Annotated[str | None, typer.Option("--site", metavar="SITE", help=_SITE)]
WrittenSite = Annotated[str | None, typer.Option("--writes", metavar="SITE", help="Where a transcoder writes: m10.")]
Layer = Annotated[int | None, typer.Option("--layer", metavar="N", min=0, help="Of a folder with several.")]
Centred = Annotated[
    bool | None,
    typer.Option("--centred/--not-centred", help="Trained with TransformerLens' processed weights, or not."),
]


class _Setup(TaskSetup):
    """The task stands behind an option: the argument is the dictionary."""

    task: OtherTask = "ioi"  # type: ignore[assignment]


@spread
def dictionary(
    setup: _Setup,
    source: DictionaryPath,
    site: ReadSite = None,
    writes: WrittenSite = None,
    layer: Layer = None,
    centred: Centred = None,
) -> None:
    """Print what a dictionary of features is, and how much of the model's activations it explains on a task.

    Variance explained, active and dead features, the loss recovered with its reconstruction in the place of the
    activations, and how much of the task's gap is left.
    """
    from veracausa.loading.dictionaries.read import dictionary as read

    lm, task = setup.ready()
    dic = read(lm, source, site, writes=writes, layer=layer, centred=centred)
    quality = dic.check(lm, task)
    if setup.json:
        what = {"reads": dic.reads.name, "writes": dic.writes.name, "features": dic.size, "source": dic.source,
                "activation": dic.encoder.activation, "digest": dic.digest()}  # fmt: skip
        print_json({"model": lm.header(), "dictionary": what, "table": rows_of(quality.table())})
        return
    echo(f"{dic.source}\n\n{quality}")
