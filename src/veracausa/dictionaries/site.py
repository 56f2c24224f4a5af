"""Sites that dictionaries read and write: where in which block.

| name | what it is | width |
|---|---|---|
| `r10` | the stream that enters block 10; `r30` of 30 blocks is the final one | the stream's |
| `a10` | the output of block 10's attention, before a post-norm | the stream's |
| `a10.post` | the same behind the post-norm: what is added to the stream | the stream's |
| `m10`, `m10.post` | the output of block 10's MLP, likewise | the stream's |
| `z10` | the values of block 10's heads, side by side: the input of the output projection | heads · head width |
| `n10` | what block 10's MLP reads, behind its norm; a transcoder reads it, nothing writes there | the stream's |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast

from veracausa.arguments import shown
from veracausa.errors import MethodError

SiteKind = Literal["r", "a", "m", "z", "n"]
_NAME = re.compile(r"([ramzn])(0|[1-9][0-9]{0,3})(\.post)?")


@dataclass(frozen=True)
class Site:
    """One site. `kind`: the letter of the table above. `post`: behind the post-norm, of attention and MLP.

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
        if match is None or (match[3] and match[1] not in "am"):
            raise MethodError(
                f"site={shown(name)} is not known. Sites are r10 (the stream entering block 10), a10 and m10 (outputs "
                "of attention and MLP; a10.post and m10.post behind a post-norm), z10 (the heads' values), n10 (what "
                "the MLP reads behind its norm)."
            )
        return cls(cast("SiteKind", match[1]), int(match[2]), bool(match[3]))

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.kind}{self.layer}{'.post' if self.post else ''}"
