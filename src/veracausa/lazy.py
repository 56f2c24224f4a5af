"""Names that a package gives out, imported on first use, so that `import veracausa` itself takes no time.

Functions are given out with their arguments checked (`typed`), under the name by which users know them, so that they
can be pickled by that name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def given_out(
    package: str, homes: Mapping[str, str], modules: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: name → the module that it lives in; `modules`: packages of its own.

    >>> __getattr__, __dir__ = given_out(__name__, {"exact": "veracausa.effects.exact"})
    """

    def found(name: str) -> Any:
        if name in homes:
            value = getattr(import_module(homes[name]), name)
            if callable(value) and not isinstance(value, type):
                from veracausa.typed import typed  # with it `import veracausa` would take twice as long

                value = typed(value, package.replace("veracausa", "vc", 1))
                value.__module__, value.__qualname__ = package, name
        elif name in modules:
            value = import_module(f"{package}.{name}")
        else:
            from veracausa.suggestions import did_you_mean

            hint = "" if name.startswith("_") else did_you_mean(name, (*homes, *modules))
            raise AttributeError(f"module {package!r} has no attribute {name!r}.{hint}", name=name, obj=None)
        setattr(sys.modules[package], name, value)
        return value

    return found, lambda: sorted((*homes, *modules))
