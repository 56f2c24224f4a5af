"""Sums of long numbers: "… 345 + 231 =" → " 576", whose results are several tokens where a tokenizer splits numbers.

The answer is read as a continuation: each of its tokens is predicted behind those before it (`pairs.assemble`).
"""

from __future__ import annotations

from itertools import islice
from typing import Any

from veracausa.arguments import shown
from veracausa.choices import MetricName
from veracausa.errors import TaskError
from veracausa.tasks.checked_pairs import CONTINUED
from veracausa.tasks.data.arithmetic import OPERATIONS
from veracausa.tasks.draw import draw, number
from veracausa.tasks.pairs import Pair, collect
from veracausa.tasks.slots import prompts
from veracausa.tasks.task import Task

#: Behind two solved ones.
_TEMPLATES = ("{first}\n{second}\n{{a}} {{operation}} {{b}} =", "Solve: {first}, {second}, {{a}} {{operation}} {{b}} =")
_MOST = 9
#: Sums that are tried before it is said that a tokenizer has none, beside a hundred for each that is asked for.
_DRAWS = 5000


def require_long(digits: int, metric: str) -> None:
    """There are sums of so many digits, and the metric can read them; a TaskError otherwise."""
    if metric not in CONTINUED:
        raise TaskError(
            f"arithmetic, digits={shown(digits)}: results can be several tokens, which the metric {shown(metric)} "
            f"cannot read. Use metric={' or '.join(map(repr, CONTINUED))}, or leave digits out."
        )
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= _MOST:
        raise TaskError(f"arithmetic: digits={shown(digits)}: numbers have 1 to {_MOST} digits.")


def long_sums(
    tokenizer: Any, n: int, seed: int, corruption: str, metric: MetricName, digits: int, spaced: bool
) -> Task:
    """Pairs of `vc.tasks.arithmetic(lm, digits=…)`; `spaced`: whether the space before a number stays in the prompt."""
    require_long(digits, metric)
    least, numbers = 10 ** (digits - 1), range(10 ** (digits - 1), 10**digits)
    templates = [template.format(**_solved(digits)) + " " * spaced for template in _TEMPLATES]

    def other(than: int, *key: object) -> int:
        """Another number of as many digits."""
        found = least + number("arithmetic", seed, *key) % (len(numbers) - 1)
        return found + (found >= than)

    def pair(choice: tuple[Any, ...]) -> Pair | None:
        t, sign, a, b = choice
        flipped = next(one for one in OPERATIONS if one != sign)
        changed = {
            "operand": (a, other(b, *choice), sign),
            "operands": (other(a, *choice, "a"), other(b, *choice), sign),
            "operation": (a, b, flipped),
        }[corruption]
        result, wrong = result_of(a, b, sign), result_of(*changed)
        if min(result, wrong) < 0 or result == wrong:
            return None
        clean, corrupted = ({"a": str(x), "b": str(y), "operation": o} for x, y, o in ((a, b, sign), changed))
        return Pair(
            **prompts(templates[t], clean, corrupted, {"a": "a", "operation": "operation", "b": "b"}),
            correct=(("" if spaced else " ") + str(result),),
            info={"template": t, "a": a, "b": b, "operation": sign, "words": False},
        )

    strata = [((t,), (sign,), numbers, numbers) for t in range(len(templates)) for sign in OPERATIONS]
    how: dict[str, Any] = {"options": {"corruption": corruption, "digits": digits}, "continued": True}
    pairs = (pair(choice) for choice in islice(draw(strata, "arithmetic", seed), _DRAWS + 100 * n))
    return collect(tokenizer, "arithmetic", pairs, n=n, seed=seed, metric=metric, **how)


def result_of(a: int, b: int, sign: str) -> int:
    """The result of a sum or difference."""
    return a + b if sign == "+" else a - b


def _solved(digits: int) -> dict[str, str]:
    """Two solved sums of numbers of so many digits."""
    numbers = [int(text[:digits]) for text in ("231452316", "456123541", "879685947", "342561423")]
    couples = zip(("first", "second"), OPERATIONS, (numbers[:2], numbers[2:]), strict=True)
    return {name: f"{a} {sign} {b} = {result_of(a, b, sign)}" for name, sign, (a, b) in couples}
