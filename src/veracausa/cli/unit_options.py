"""Options that say which units, and what is done to them; see `options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from veracausa.cli.choices import models, one_of, several_of
from veracausa.cli.options import count, explained, number, option
from veracausa.scores.estimands import ABLATIONS, DIRECTIONS, INSTEAD, RESTORED, UNLEARNED
from veracausa.storage.files import at
from veracausa.tasks.references import REFERENCE_FILES
from veracausa.units.kinds import KINDS

#: What `--units` takes as a whole.
_ALL_KINDS = (*KINDS, "edges")

Units = Annotated[
    str,
    option(
        help=f"{', '.join(_ALL_KINDS)}; each also per position (heads@positions) and at the task's spans (heads@spans, "
        "heads@S2); or names with commas: a20.h0,a17.h4@S2. Names with + are one patch: a20.h0+m3@5-8. Components "
        "of weights: m20.down.c0-31, a17.h4.ov0. Cells of a pattern: patterns@cells, 'a17.h4<pattern>@9,4'. Edges and "
        "paths: 'a17.h4->m18', 'a17.h4->a20.h0<v>->logits', 'a17.h4->...->a20.h0'.",
        autocompletion=several_of(_ALL_KINDS),
    ),
]
Dictionaries = Annotated[
    list[str] | None,
    option(
        "--dictionary",
        help="Features or directions whose parts are units (features, f10.1234, f10.error): a folder or file, or the "
        "name of one that comes along; of a folder of circuit-tracer's transcoders all layers. PATH@r10 says its site, "
        "PATH@m10:mlp a name, too. May be given several times.",
        metavar="PATH[@SITE]",
    ),
]
Components = Annotated[
    list[str] | None,
    option(
        "--components",
        help="Components of weights that are units beside singular directions and single weights, which names say: "
        "a9.q@lora (ranks of the adapters), m5.down@FILE (factors m5.down.U and m5.down.V), m5.down with --against; "
        "MAPS@FILE:spd names the set. May be given several times.",
        metavar="MAPS[@WHAT]",
    ),
]
Against = Annotated[
    str | None,
    option(
        "--against",
        help="Another checkpoint of the same architecture: components are parts of the difference (m5.down.diff0).",
        metavar="MODEL",
        autocompletion=models,
    ),
]
Kinds = Annotated[
    str, option("--units", help=f"Kinds with commas: {', '.join(KINDS)}.", autocompletion=several_of(KINDS))
]
Names = Annotated[
    str, option("--units", help="Names of heads, attention layers, MLPs or neurons, with commas: a20.h0,a17,m29.n7")
]
Ablation = Annotated[
    str,
    option(help=f"What stands in the place: {explained(ABLATIONS)}.", autocompletion=one_of(ABLATIONS)),
]
AnyAblation = Annotated[
    str,
    option(
        "--ablation",
        help=f"What stands in the place: {explained(ABLATIONS | INSTEAD)}. own and added need --tensor.",
        autocompletion=one_of((*ABLATIONS, *INSTEAD)),
    ),
]
TensorFile = Annotated[
    str | None,
    option(
        "--tensor",
        help="Your tensors: a .safetensors or .npz file with one a unit, by the unit's name; FILE:key takes one of "
        "them for every unit.",
        metavar="FILE[:KEY]",
    ),
]
Scale = Annotated[
    float | None,
    number(
        help="How much is added: so many times the vector, or of noise the unit's standard deviation (default: 1). "
        "Of scaled, the factor."
    ),
]
Draws = Annotated[
    int | None, count(help="How often the noise is drawn; numbers are means over draws. Default: 8.", min=1)
]
NoiseDraws = Annotated[int, count("--draws", help="How often the noise is drawn; numbers are means over draws.", min=1)]
Span = Annotated[
    str,
    option(metavar="SPAN", help="What is noised: a span of the task by its name, or positions with commas: 3,4,-1."),
]
Restored = Annotated[
    str, option("--units", help=f"What is restored: {explained(RESTORED)}.", autocompletion=one_of(RESTORED))
]
Window = Annotated[int, count(help="Layers restored together, around each state's.", min=1)]
Sd = Annotated[float, number(help="Standard deviation of the noise, in units of the embeddings' own.")]
Steered = Annotated[
    str | None,
    option(
        "--units",
        help="Names of one kind, with commas, also at positions: r10,r12@5. Default: all that have a tensor.",
    ),
]
Scales = Annotated[str, option(metavar="X,X", help="Multiples of the vectors, with commas.")]
Reference = Annotated[
    Path | None,
    option(
        "--reference",
        help="Prompts that means, other prompts' values and the size of noise come from: a file with a sentence a line "
        f"(.txt), or a table ({', '.join(REFERENCE_FILES[1:])}) with a column text. Default: the pairs' own.",
        parser=at,
        metavar="FILE",
    ),
]
Ablations = Annotated[
    str,
    option(
        help=f"With commas: {explained({name: ABLATIONS[name] for name in UNLEARNED})}.",
        autocompletion=several_of(UNLEARNED),
    ),
]
Direction = Annotated[str, option(help=f"What is patched: {explained(DIRECTIONS)}.", autocompletion=one_of(DIRECTIONS))]
TopTokens = Annotated[
    int, count("--tokens", help="How many of the likeliest tokens to keep at every point; 0: the metric alone.", min=0)
]
SplitLayers = Annotated[
    str | None, option(metavar="L,L", help="Layers whose MLPs are split into neurons, with commas.")
]
Positions = Annotated[bool, option("--positions", help="Also by position: heads by the key that they look at.")]
Together = Annotated[bool, option(help="Ablate all units at once, too.")]
NewTokens = Annotated[int, count(help="Tokens to generate; 1 decides for answers of one token.", min=1)]
