"""Colours and fonts of every chart, for light and dark pages. Blue–orange and Okabe–Ito tell apart without red–green.

**One convention.** Blue supports the behaviour, orange works against it, whatever sign that has in the numbers drawn:
`Support` says which, and its words stand on every figure that is coloured so. Early layers are at the bottom, as the
residual stream is drawn in circuits: it flows upwards, so that a map and a drawing can be laid beside each other.
Numbers that neither support nor oppose have other colours: differences between methods grey, agreement purple–green.

Charts name roles (mark styles, the ranges "diverging": supports, neither, works against; "ordinal": works against,
neither, supports, as single colours; "ramp": magnitudes; "heatmap": agreement; "category": methods); a theme says what
a role looks like, so that one specification serves the light page, the dark page and the PNG.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from veracausa.choices import Look

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

#: Mark styles: exact values, lines through them, guides and zero lines behind the data, names beside points, diagonals.
EXACT, TRUTH, GUIDE, ZERO, NAME, DIAGONAL = "exact", "truth", "guide", "zero", "name", "diagonal"
#: … bars of what supports the behaviour and of what works against it, and text upon strong colours.
SUPPORTING, OPPOSING, INVERSE = "supporting", "opposing", "inverse"
#: … what stands behind a name that crosses lines.
HALO = "halo"


class Support(Enum):
    """Which sign of the numbers that are drawn supports the behaviour, in the words of a legend."""

    NEGATIVE = "blue (−) supports the behaviour, orange (+) works against it"
    POSITIVE = "blue (+) supports the behaviour, orange (−) works against it"
    UNSIGNED = "magnitudes: no sign, so grey"
    DIFFERENCE = "green (+) is higher in B, purple (−) in A"

    @classmethod
    def of(cls, direction: str, signed: bool = True) -> Support:
        """Of effects: noising takes away what supports, denoising brings it back. Of importances: `POSITIVE`."""
        if not signed:
            return cls.UNSIGNED
        return cls.POSITIVE if direction == "denoising" else cls.NEGATIVE

    @property
    def signs(self) -> str:
        """The same where colours say something else."""
        if self is Support.UNSIGNED:
            return "magnitudes: no sign"
        return re.sub(r"\w+ \((.)\)", r"\1", self.value)

    @property
    def styles(self) -> tuple[str, str]:
        """Styles of bars below zero and above it."""
        if self in (Support.UNSIGNED, Support.DIFFERENCE):
            return EXACT, EXACT
        return (SUPPORTING, OPPOSING) if self is Support.NEGATIVE else (OPPOSING, SUPPORTING)


@dataclass(frozen=True)
class Theme:
    """Colours by role; `diverging` runs from what supports over zero to what works against, `category` is one colour
    per method, `agreement` runs from −1 over 0 to 1. `size`: of letters on axes, in pixels.
    """

    ink: str
    muted: str
    line: str
    surface: str
    diverging: tuple[str, ...]
    agreement: tuple[str, ...]
    category: tuple[str, ...]
    font: str = FONT
    size: float = 11

    def config(self, background: str | None = None) -> dict[str, Any]:
        """The theme as a Vega-Lite configuration; no background colour means transparent."""
        text = {"fill": self.ink, "font": self.font, "fontSize": self.size}
        return {
            "background": background or "transparent",
            "font": self.font,
            "view": {"stroke": None},
            "axis": {
                "labelColor": self.muted,
                "titleColor": self.muted,
                "titleFontWeight": 500,
                "titleFontSize": self.size,
                "labelFontSize": self.size,
                "titlePadding": 7,
                "gridColor": self.line,
                "domainColor": self.line,
                "tickColor": self.line,
                "tickSize": 4,
                "labelOverlap": "greedy",
            },
            "legend": {
                "orient": "top",
                "title": None,
                "labelColor": self.ink,
                "labelFontSize": self.size + 1,
                "labelLimit": 260,
                "titleFontSize": self.size,
                "titleColor": self.muted,
                "titleFontWeight": 500,
                "symbolBaseFillColor": self.muted,
                "symbolBaseStrokeColor": self.muted,
                "symbolSize": 70,
                "symbolStrokeWidth": 2,
                "offset": 8,
            },
            "title": {
                "color": self.ink,
                "subtitleColor": self.muted,
                "fontSize": self.size + 2,
                "fontWeight": 600,
                "anchor": "start",
                "offset": 8,
            },
            "text": text,
            "range": {
                "diverging": list(self.diverging),
                "category": list(self.category),
                "ordinal": [self.diverging[-2], self.muted, self.diverging[1]],
                "ramp": [self.diverging[3], self.muted, self.ink],
                "heatmap": list(self.agreement),
            },
            "style": {
                EXACT: {"color": self.ink, "fill": self.ink},
                TRUTH: {"color": self.ink, "stroke": self.ink, "strokeWidth": 2},
                GUIDE: {"color": self.muted, "stroke": self.muted, "strokeWidth": 1, "opacity": 0.8},
                ZERO: {"color": self.muted, "stroke": self.muted, "strokeWidth": 1, "opacity": 0.45},
                DIAGONAL: {"color": self.muted, "stroke": self.muted, "strokeWidth": 1, "strokeDash": [4, 4]},
                SUPPORTING: {"color": self.diverging[1], "fill": self.diverging[1]},
                OPPOSING: {"color": self.diverging[-2], "fill": self.diverging[-2]},
                NAME: {**text, "fontSize": self.size - 0.5},
                INVERSE: {**text, "fontSize": self.size - 0.5, "color": self.surface, "fill": self.surface},
                HALO: {
                    **text,
                    "fontSize": self.size - 0.5,
                    "fill": self.surface,
                    "stroke": self.surface,
                    "strokeWidth": 4,
                    "strokeJoin": "round",
                },
            },
            "rule": {"color": self.muted},
        }


LIGHT = Theme(
    ink="#1b2127",
    muted="#59636e",
    line="#dde2e7",
    surface="#ffffff",
    diverging=("#08467f", "#2b7bba", "#8fc1e3", "#f0f0ed", "#f5b877", "#d9731a", "#8a3d05"),
    agreement=("#762a83", "#c2a5cf", "#f0f0ed", "#a6dba0", "#1b7837"),
    category=("#0072b2", "#d55e00", "#00866a", "#b0558f", "#6b5600", "#7a4fd0"),
)
DARK = Theme(
    ink="#e8eaed",
    muted="#a2abb5",
    line="#343b43",
    surface="#1a1e23",
    diverging=("#9fd2ff", "#4a9be0", "#2b5f8f", "#2c3238", "#8a5321", "#e08a33", "#ffcf96"),
    agreement=("#c9a0dc", "#7d5591", "#2c3238", "#3f7a4d", "#8fd19a"),
    category=("#5cb8f0", "#ff8a47", "#2aa381", "#f5bfe0", "#ecd96a", "#8c78ff"),
)
#: For print: black, letters of 8 pt (a pixel of a PDF is a point), and a font that journals ask for.
PAPER = replace(
    LIGHT,
    ink="#000000",
    muted="#333333",
    line="#d0d0d0",
    font="Arial, Helvetica, 'Liberation Sans', sans-serif",
    size=8,
)
THEMES: dict[Look, Theme] = {"light": LIGHT, "dark": DARK, "paper": PAPER}
