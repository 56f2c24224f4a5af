"""Libraries that a plain `pip install veracausa` leaves out, and the extra that brings each.

What has no use for them never asks. What needs one asks before it does anything else, so that nobody waits an hour for
a page that cannot be drawn.
"""

from __future__ import annotations

from importlib.util import find_spec

from veracausa.errors import ExtraError

#: Extra → its modules as they are imported, and what needs them. `pyproject.toml` names the packages.
EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "charts": (("altair", "jinja2", "markupsafe", "vl_convert"), "drawing charts and pages"),
    "gguf": (("accelerate", "filelock", "gguf"), "converting a packaged model or a .gguf file"),
    "graphs": (("networkx",), "making and reading networkx graphs and GraphML files"),
    "ray": (("ray",), "spreading a sweep over a Ray cluster"),
    "parquet": (("pyarrow",), "reading and writing Parquet files"),
}


def require_extra(extra: str) -> None:
    """Raise unless every module of an extra can be imported.

    Raises:
        ExtraError: with the line that installs them.

    >>> require_extra("charts")
    """
    modules, use = EXTRAS[extra]
    if missing := [module for module in modules if find_spec(module) is None]:
        raise ExtraError(
            f"{use[0].upper()}{use[1:]} needs what a plain install leaves out ({', '.join(missing)}): "
            f"pip install 'veracausa[{extra}]'"
        )
