"""Pages inside a notebook: the page that `save` would write, in a frame that holds its whole source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from veracausa.circuits.comparison import CircuitComparison
from veracausa.discovery.results import Discovery
from veracausa.report.pages import circuit_comparison, comparison, discovery
from veracausa.report.pages import page as study
from veracausa.scores.comparison import Comparison
from veracausa.spared import spared
from veracausa.studies.results import Study

#: Results with a page of their own → what makes its text.
_PAGES: dict[type, Callable[[Any], str]] = {
    Study: study.page,
    Discovery: discovery.page,
    Comparison: comparison.page,
    CircuitComparison: circuit_comparison.page,
}
#: Pixels of a frame from top to bottom.
_HEIGHT = 780
#: Frames that were made: the charts of a default study take some seconds to write down.
_MADE: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def framed_page(result: Any) -> str:
    """The result's page as an <iframe>; "" where it cannot be made. Nothing is fetched.

    The frame may run scripts and offer downloads, and sees nothing of the notebook around it (`sandbox`). Its links
    to places within it stay within it, since its base is its own source.
    """
    if result not in _MADE:
        _MADE[result] = _framed(result)
    return _MADE[result]


def _framed(result: Any) -> str:
    text = spared("The page", lambda: _PAGES[type(result)](result), lambda sentence: "")
    if not text:
        return ""
    source = (
        text.replace("<head>", '<head>\n<base href="about:srcdoc">', 1).replace("&", "&amp;").replace('"', "&quot;")
    )
    return (
        f'<iframe title="{type(result).__name__}" sandbox="allow-scripts allow-downloads allow-modals" '
        f'style="width:100%;height:{_HEIGHT}px;border:0" srcdoc="{source}"></iframe>'
    )
