"""When memory runs out: smaller chunks and smaller batches first, then a clear error."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from veracausa.errors import OutOfMemoryError

T = TypeVar("T")
#: What can be counted and cut: an array, a tensor, a list.
Rows = TypeVar("Rows", bound=Any)
_ADVICE = "Use shorter prompts, a smaller dtype (dtype=torch.bfloat16) or a device with more memory."


@contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turn every library's way to say that memory ran out into an OutOfMemoryError about `what`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        raise OutOfMemoryError(f"{what} does not fit into memory: {_first_line(error)}. {_ADVICE}") from error


def shrinking(rows: int, attempt: Callable[[int], T], what: str) -> tuple[T, int]:
    """Call `attempt(rows)`, halving `rows` as long as memory runs out; returns the result and the rows that fitted.

    Raises:
        OutOfMemoryError: one row does not fit.
    """
    while True:
        try:
            return attempt(rows), rows
        except (OutOfMemoryError, torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            # one that is in words already (`memory_errors` inside) says best what did not fit
            if not _is_memory(error) or (rows == 1 and isinstance(error, OutOfMemoryError)):
                raise
            message = _first_line(error)
        if rows == 1:
            raise OutOfMemoryError(f"Not enough memory for one row of {what}: {message}. {_ADVICE}")
        rows = max(1, rows // 2)
        _forget()


def chunks(rows: Rows, size: int, run: Callable[[Rows], T], what: str) -> Iterator[tuple[Rows, T]]:
    """Call `run(part)` for all rows in order, `size` at a time, fewer where memory runs out; yields (part, result).

    A result that its user has let go of is gone before the next chunk runs.

    Raises:
        OutOfMemoryError: one row does not fit.

    >>> for part, effects in chunks(np.arange(1000), 64, patched, "9 tokens"):
    ...     found[part] = effects
    """
    first = 0
    while first < len(rows):

        def attempt(most: int, first: int = first) -> T:
            return run(rows[first : first + most])

        found, size = shrinking(size, attempt, what)
        part = rows[first : first + size]
        first += len(part)
        yield part, found
        del found


def halving(groups: Sequence[tuple[int, tuple[int, ...]]], run: Callable[[int, tuple[int, ...]], None]) -> None:
    """Call `run(start, examples)` for every bucket, in halves where a whole bucket does not fit.

    Raises:
        OutOfMemoryError: one example does not fit.
    """
    waiting = deque(groups)
    while waiting:
        start, examples = waiting.popleft()
        try:
            run(start, examples)
            continue
        except OutOfMemoryError:
            if len(examples) == 1:
                raise
        _forget()
        middle = len(examples) // 2
        waiting.extendleft([(start, examples[middle:]), (start, examples[:middle])])


def _forget() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, (OutOfMemoryError, torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "not enough memory" in text or "out of memory" in text or "can't allocate memory" in text
