"""What a command is about to cost, said before it starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from veracausa.errors import MethodError
from veracausa.terminal import say

if TYPE_CHECKING:
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: Forward passes over the pairs from which on it is worth timing the machine to say how many seconds they take.
_LONG = 50.0


def foretold(
    verb: Callable[..., Any], lm: Model, task: Task | Sequence[Task], how: dict[str, Any] | None = None, /, **asked: Any
) -> Any:
    """Say on standard error what a call will cost, if that is known of the verb, and then make it.

    `how`: arguments that change nothing about the work, such as the folder for its pieces.
    """
    from veracausa.planning.price import forecast

    with suppress(MethodError):  # no forecast; or the call means nothing, and then it says so itself
        price = forecast(verb, lm, task, measure=False, **asked)
        say(f"cost   {price if price.passes < _LONG else forecast(verb, lm, task, **asked)}")
    return verb(lm, task, **asked, **(how or {}))
