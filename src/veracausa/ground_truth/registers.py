"""The program of the trained model, as a causal model: two flags choose a register, and a number is added to it.

    BOS  f1  y3  x0  +2  g0   →   register chosen by (flag ≠ switch): y, which holds 3;  3 + 2 mod 4 = 1

Six variables make an input: `flag` (f), `order` (1: y stands before x), `first` and `second` (what the registers in
these places hold), `shift` (+) and `switch` (g). The algorithm has five steps, each aligned to one part of a GPT-2 of
three layers and four heads:

    a0.h1  brings the flag to the last position                       ← input<v>
    a0.h3  brings the shift there                                     ← input<v>
    m0     chosen = flag ≠ switch  (0: x, 1: y)                       ← a0.h1, input
    a1.h2  looks the chosen register up by its name                   ← m0<q>, input<k> (names), input<v> (contents)
    m2     result = (content + shift) mod 4                           ← a1.h2, a0.h3
    logits                                                            ← m2

Keys of a0.h1 and a0.h3 name positions only, which no pair changes; so these are no true edges.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from veracausa.errors import PromptError
from veracausa.ground_truth.known import Known, Pair, Word

if TYPE_CHECKING:
    from jaxtyping import Bool, Int

#: What a register holds and what is added to it: 0 … SIZE − 1.
SIZE = 4
_HELD = f"[0-{SIZE - 1}]"
#: Number of values of every variable, in the order of an input's columns.
VARIABLES = {"flag": 2, "order": 2, "first": SIZE, "second": SIZE, "shift": SIZE, "switch": 2}
#: The vocabulary, the start word first; the last SIZE words are the answers.
WORDS: tuple[str, ...] = (
    "BOS",
    *(f"{kind}{i}" for kind, many in (("f", 2), ("x", SIZE), ("y", SIZE), ("+", SIZE), ("g", 2)) for i in range(many)),
    *(str(i) for i in range(SIZE)),
)
_INPUT = re.compile(rf"f[01] (?:x{_HELD} y{_HELD}|y{_HELD} x{_HELD}) \+{_HELD} g[01]")
#: Edges that carry the algorithm, in the order of `outcome`.
TRUE_EDGES = (
    *("input->a0.kv1<v>", "input->a0.kv3<v>", "a0.h1->m0", "input->m0", "m0->a1.h2<q>"),
    *("input->a1.kv2<k>", "input->a1.kv2<v>", "a1.h2->m2", "a0.h3->m2", "m2->logits"),
)
#: Parts that carry it, each with what it computes.
TRUE_NODES = {"a0.h1": "flag", "a0.h3": "shift", "m0": "chosen", "a1.h2": "content", "m2": "result"}


def inputs() -> Int[Tensor, "inputs 6"]:
    """Every input, one row of variables each."""
    return torch.tensor(list(product(*(range(many) for many in VARIABLES.values()))))


def words_of(values: Int[Tensor, " 6"]) -> tuple[str, ...]:
    """The words of an input, without the start word."""
    flag, order, first, second, shift, switch = values.tolist()
    names = "yx" if order else "xy"
    return (f"f{flag}", f"{names[0]}{first}", f"{names[1]}{second}", f"+{shift}", f"g{switch}")


def outcome(
    values: Int[Tensor, "rows 6"],
    source: Int[Tensor, "rows 6"] | None = None,
    taken: Bool[Tensor, "rows edges"] | None = None,
) -> Int[Tensor, " rows"]:
    """The result of every input, if the edges `taken` (in the order of TRUE_EDGES) carry what they carry on `source`.

    Without a source it is the algorithm's own result.
    """
    if source is None or taken is None:
        return _steps(values, values, None, None)["result"]
    return _steps(values, source, _steps(source, source, None, None), taken)["result"]


def _steps(values: Tensor, source: Tensor, other: dict[str, Tensor] | None, taken: Tensor | None) -> dict[str, Tensor]:
    """What every node holds; `other`: what it holds on the source."""

    def carried(edge: int, here: Tensor, there: Tensor) -> Tensor:
        return here if taken is None else torch.where(taken[:, edge], there, here)

    def of(node: str, edge: int) -> Tensor:
        return steps[node] if other is None else carried(edge, steps[node], other[node])

    flag, order, first, second, shift, switch = zip(values.unbind(1), source.unbind(1), strict=True)
    steps = {"flag": carried(0, *flag), "shift": carried(1, *shift)}
    steps["chosen"] = of("flag", 2) ^ carried(3, *switch)
    here = of("chosen", 4) == carried(5, *order)  # the chosen register stands in the first place
    steps["content"] = torch.where(here, carried(6, *first), carried(6, *second))
    steps["result"] = (of("content", 7) + of("shift", 8)) % SIZE
    steps["result"] = of("result", 9)
    return steps


@dataclass(frozen=True)
class Registers(Known):
    """The program of the trained model; its pairs differ in one variable, and their results differ.

    `floor`: an effect over this share of the gap makes a part true. `largest_false`, `smallest_true`: the largest
    effect of any false part and the smallest of any true one (its largest over pairs), over all pairs, as shares of
    the gap.
    """

    nodes: frozenset[str]
    edges: frozenset[str]
    floor: float
    largest_false: float
    smallest_true: float
    name: str = "registers"
    words: tuple[str, ...] = WORDS

    made = "trained"

    def outputs_of(self, words: tuple[Word, ...]) -> list[int]:
        """The program's result, at its one position of interest, the last."""
        flag, first, second, shift, switch = map(str, words)
        content = {word[0]: int(word[1]) for word in (first, second)}["xy"[flag[1] != switch[1]]]
        return [(content + int(shift[1])) % SIZE]

    def inputs(self) -> list[tuple[Word, ...]]:
        """Every input."""
        return [words_of(values) for values in inputs()]

    def pairs(self) -> list[Pair]:
        """Every ordered pair of inputs that differ in one variable and in the result."""
        values = inputs()
        results, rows = outcome(values).tolist(), values.tolist()
        place = {tuple(row): i for i, row in enumerate(rows)}
        found = []
        for i, row in enumerate(rows):
            for column, many in enumerate(VARIABLES.values()):
                moved = ((*row[:column], new, *row[column + 1 :]) for new in range(many) if new != row[column])
                found += [(i, place[to]) for to in moved if results[i] != results[place[to]]]
        text = self.inputs()
        return [Pair(text[i], text[j], len(text[i]) - 1) for i, j in found]

    def tokens(self, words: tuple[Word, ...], read: int | None = None) -> tuple[int, ...]:  # type: ignore[override]
        """Token ids of the start word and an input, which is read at its last position.

        Raises:
            PromptError: this is no input of the program.
        """
        if not _INPUT.fullmatch(" ".join(map(str, words))):
            raise PromptError(f"registers takes five words such as {words_of(inputs()[0])}, but got {list(words)}")
        return tuple(WORDS.index(str(word)) for word in ("BOS", *words))

    def answers(self, pair: Pair) -> tuple[int, int]:
        """Tokens of the clean and of the corrupted result."""
        clean, corrupted = (str(self.outputs_of(words)[0]) for words in pair[:2])
        return WORDS.index(clean), WORDS.index(corrupted)
