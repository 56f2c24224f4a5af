"""What every result can do, whatever was asked: one protocol for everything that a public function returns.

A result is about a `model` and a `task`, was made with `settings` and at a `cost`, and says what it found as a `table`,
in `sentences`, as text (`describe`), as a `chart`, and in a file (`save`, read again by `vc.open`). It knows no
particular result.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from veracausa.doors import through
from veracausa.terminal import printable

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from veracausa.choices import Look
    from veracausa.cost import Cost

#: Rows of a table, and sentences, that are shown.
ROWS, _SENTENCES = 10, 6


@runtime_checkable
class Result(Protocol):
    """Everything that a public function returns is one (models, tasks, measurements and checks are none).

    >>> isinstance(vc.exact(lm, task), vc.Result)
    True
    """

    @property
    def model(self) -> Mapping[str, Any]:
        """What it says of its model: name, source, dtype, identity."""
        ...

    @property
    def task(self) -> Mapping[str, Any]:
        """What it says of its task: name, description, digest, metric, n, lengths."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """How it was made: what else its numbers depend on."""
        ...

    @property
    def cost(self) -> Cost | None:
        """What its numbers cost; None where they are made of other results, and no model was run for them."""
        ...

    @property
    def sentences(self) -> tuple[str, ...]:
        """What a researcher would write, made from the numbers."""
        ...

    def table(self) -> pd.DataFrame:
        """The numbers, row by row."""
        ...

    def describe(self) -> str:
        """What the numbers are, line by line."""
        ...

    def chart(
        self,
        *,
        width: float | None = None,
        height: float | None = None,
        font: str | None = None,
        theme: Look | None = None,
    ) -> Any:
        """The result as an Altair chart; `width`, `height`: of its plot (of each); `font`, `theme`: of its look."""
        ...

    def save(self, path: str | Path) -> Path:
        """Write it, whole or not at all; `vc.open` reads it."""
        ...

    def _repr_html_(self) -> str: ...


class Shown:
    """How every result is drawn, and shown in a notebook."""

    if TYPE_CHECKING:  # what each says itself

        @property
        def sentences(self) -> tuple[str, ...]: ...  # noqa: D102

        def table(self) -> pd.DataFrame: ...  # noqa: D102

        def describe(self) -> str: ...  # noqa: D102

    def chart(
        self,
        *,
        width: float | None = None,
        height: float | None = None,
        font: str | None = None,
        theme: Look | None = None,
    ) -> Any:
        """The result as an Altair chart; `width`, `height`: of its plot (of each, where there are several), in pixels.

        `theme`: "light", "dark", or "paper": black letters of 8 pt and no title, which the caption is for. `font`: of
        all letters, one of this machine's. A chart that is given either cannot be layered with others. A pixel is a
        point in a PDF, which holds its fonts; an SVG names them.

        >>> result.chart(width=240, theme="paper").save("result.pdf")  # or .svg, .png, .html, .json
        """
        return through("Result.chart", self, width=width, height=height, font=font, theme=theme)

    def __or__(self, other: Any) -> Any:
        """Both side by side, of scores, receipts and studies: what differs, and is it more than chance?

        >>> (vc.open("out/base") | vc.open("out/tuned")).page("compared.html")
        """
        return through("Result.beside", self, other)

    def head(self) -> pd.DataFrame:
        """The rows of the table that are shown first, at most ten."""
        return self.table()[:ROWS]

    def _repr_html_(self) -> str:
        """Text, sentences and the head of the table, in the colours of the page around it; nothing is fetched."""
        said = [*self.sentences[:_SENTENCES]]
        if more := len(self.sentences) - len(said):
            said.append(f"… and {more:,} more sentences")
        rows = self.head().to_html(index=False, border=0, na_rep="–", float_format="{:.4g}".format)
        text = "".join(f"<p>{escape(one)}</p>" for one in said)
        return printable(f"<pre><code>{escape(self.describe())}</code></pre>{text}{rows}")


class Paged(Shown):
    """A result with a page of its own, which a notebook shows; its text stands folded below it."""

    def _repr_html_(self) -> str:
        """The page in a frame, then what other results show."""
        page: str = through("Paged.frame", self)
        text = super()._repr_html_()
        return printable(f"{page}<details><summary>The same as text</summary>{text}</details>") if page else text
