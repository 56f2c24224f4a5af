"""Colours that everyone can tell: WCAG AA contrast of every text; methods' colours as the colour-blind see them."""

import itertools
import json

import numpy as np
import pytest

from veracausa.report.charts.theme import DARK, LIGHT, PAPER

#: Contrast of every text node that is seen, against what lies behind it: (L₁ + .05) / (L₂ + .05), over what WCAG 2.2
#: (1.4.3) asks for: 4.5, or 3 of large letters.
TEXTS = """() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const colour = (text) => { const [r, g, b, a = 1] = numbers(text); return { rgb: [r, g, b], a }; };
  const linear = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const over = (top, under) => top.rgb.map((v, i) => v * top.a + under[i] * (1 - top.a));
  const behind = (place) => {
    const layers = [];
    for (let one = place; one; one = one.parentElement) layers.push(colour(getComputedStyle(one).backgroundColor));
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255]);
  };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const place = walk.currentNode.parentElement, style = getComputedStyle(place), text = walk.currentNode.data.trim();
    if (!text || place.closest("script, style, noscript") || style.opacity === "0") continue;
    if (!place.getBoundingClientRect().width) continue;
    const under = behind(place), ink = colour(place.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [light, dark] = [luminance(over(ink, under)), luminance(under)].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const named = `${place.tagName} ${place.getAttribute("class")}: ${text.slice(0, 30)}`;
    found.push([(light + 0.05) / (dark + 0.05) / (large ? 3 : 4.5), named]);
  }
  return found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(chromium, saved, scheme):
    page = chromium.new_page(viewport={"width": 1400, "height": 900}, color_scheme=scheme)
    page.goto((saved / "report.html").as_uri())
    page.evaluate("for (const one of document.querySelectorAll('main details')) one.open = true")
    page.locator("button.name").first.click()  # what is chosen is marked, and has a panel
    found = page.evaluate(TEXTS)
    assert len(found) > 500
    poor = [(round(share, 2), text) for share, text in found if share < 0.995]
    assert not poor, json.dumps(poor[:10], ensure_ascii=False)
    page.close()


#: Machado et al. 2009: what is seen with no long-wave (protan), no middle-wave (deutan) cones, in linear RGB.
BLIND = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(colour: str, seen: np.ndarray) -> np.ndarray:
    """A colour as CIE L*a*b*, as it is seen."""
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = XYZ @ np.clip(seen @ linear, 0, 1) / [0.9505, 1.0, 1.089]
    f = [np.cbrt(v) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize("theme", [LIGHT, DARK, PAPER])
def test_the_colour_blind_tell_signs_and_methods_apart(theme, kind):
    """Ends of a scale lie far apart; any two methods' colours well over what is just seen, a ΔE*ab of 2.3."""
    seen = np.array(BLIND[kind])
    for scale in (theme.diverging, theme.agreement):
        assert np.linalg.norm(lab(scale[0], seen) - lab(scale[-1], seen)) > 30
    apart = [np.linalg.norm(lab(a, seen) - lab(b, seen)) for a, b in itertools.combinations(theme.category, 2)]
    assert min(apart) > 14
