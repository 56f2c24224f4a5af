"""Sites that dictionaries read and write: where in which block.

| name | what it is | width |
|---|---|---|
| `r10` | the stream that enters block 10; `r30` of 30 blocks is the final one | the stream's |
| `r10.mid` | the stream between block 10's attention and its MLP | the stream's |
| `a10` | the output of block 10's attention, before a post-norm | the stream's |
| `a10.post` | the same behind the post-norm: what is added to the stream | the stream's |
| `m10`, `m10.post` | the output of block 10's MLP, likewise | the stream's |
| `z10` | the values of block 10's heads, side by side: the input of the output projection | heads · head width |
| `n10` | what block 10's MLP reads, behind its norm; a transcoder reads it, nothing writes there | the stream's |

Components of weights (`components`) read and write at more of them, which no other dictionary can be laid on: `m10.in`
(the hidden layer of the MLP: the input of its down projection), `a10.in` (what queries, keys and values are made of),
and the outputs of maps, `a10.q`, `a10.k`, `a10.v`, `m10.up` and `m10.gate`, as the maps give them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from veracausa.arguments import shown
from veracausa.errors import MethodError

SiteKind = Literal["r", "a", "m", "z", "n", "mid", "hidden", "read", "q", "k", "v", "up", "gate"]
#: Kinds that components alone have → how the name of one goes on behind its layer.
_OF_MAPS = {"hidden": "m{}.in", "read": "a{}.in", "up": "m{}.up", "gate": "m{}.gate",
            "q": "a{}.q", "k": "a{}.k", "v": "a{}.v"}  # fmt: skip
_NAME = re.compile(r"([ramzn])(0|[1-9][0-9]{0,3})(\.post|\.mid)?")


@dataclass(frozen=True)
class Site:
    """One site. `kind`: the letter of the table above, or "mid". `post`: behind the post-norm, of attention and MLP.

    >>> Site.of("m10"), Site.of("a3.post").name
    (Site(kind='m', layer=10, post=False), 'a3.post')
    """

    kind: SiteKind
    layer: int
    post: bool = False

    @classmethod
    def of(cls, name: str) -> Site:
        """The site of that name.

        Raises:
            MethodError: it is none; says which there are.
        """
        match = _NAME.fullmatch(name) if isinstance(name, str) else None
        if match is None or (match[3] and match[1] not in {".post": "am", ".mid": "r"}[match[3]]):
            raise MethodError(
                f"site={shown(name)} is not known. Sites are r10 (the stream entering block 10), r10.mid (between its "
                "attention and MLP), a10 and m10 (outputs of attention and MLP; a10.post and m10.post behind a "
                "post-norm), z10 (the heads' values), n10 (what the MLP reads behind its norm)."
            )
        kind = "mid" if match[3] == ".mid" else match[1]
        return cls(cast("SiteKind", kind), int(match[2]), match[3] == ".post")

    @property
    def name(self) -> str:
        """Its name."""
        if self.kind == "mid":
            return f"r{self.layer}.mid"
        if self.kind in _OF_MAPS:
            return _OF_MAPS[self.kind].format(self.layer)
        return f"{self.kind}{self.layer}{'.post' if self.post else ''}"
