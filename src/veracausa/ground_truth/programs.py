"""The compiled programs: what each computes, and prompt pairs on which its circuit shows.

A pair changes one word of an input of up to `longest` words, and is read at one position whose output changes with it.
With y and y′ the program's outputs there for the clean and the corrupted input, the metric is the model's output
projected on y − y′:

    words or counts (one output direction each)    ℓ_y − ℓ_y′, the difference of two logits
    a number (one output direction)                sign(y − y′) · ℓ

so both are the metric `logit_diff`, if a number's model has a second logit that is always 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from veracausa.errors import PromptError
from veracausa.ground_truth.known import Known, Pair, Word

Output = str | int | bool | float

BOS = "BOS"


def _histogram(words: Sequence[Word]) -> list[Output]:
    counts = Counter(words)
    return [counts[word] for word in words]


def _double_histogram(words: Sequence[Word]) -> list[Output]:
    """For each position, how many different words occur as often as the word there."""
    counts = Counter(words)
    alike = Counter(counts.values())  # occurrences → words with so many
    return [alike[counts[word]] for word in words]


def _frac_prevs(words: Sequence[Word]) -> list[Output]:
    return [list(words[: i + 1]).count("x") / (i + 1) for i in range(len(words))]


def _pair_balance(words: Sequence[Word]) -> list[Output]:
    before = [words[: i + 1] for i in range(len(words))]
    return [(list(seen).count("(") - list(seen).count(")")) / len(seen) for seen in before]


def _dyck(words: Sequence[Word]) -> list[Output]:
    """At every position: whether all brackets of the whole input are balanced."""
    depth, low = 0, 0
    for word in words:
        depth += 1 if word == "(" else -1
        low = min(low, depth)
    return [depth == 0 and low == 0] * len(words)


def _sort_by_frequency(words: Sequence[Word]) -> list[Output]:
    counts = Counter(words)
    ordered: list[Word] = sorted(words, key=lambda word: -counts[word])
    return [*ordered]


#: Name → the algorithm in plain Python: words → the output at each of their positions.
ALGORITHMS: dict[str, Callable[[Sequence[Word]], list[Output]]] = {
    "frac_prevs": _frac_prevs,
    "sort": sorted,
    "reverse": lambda words: list(reversed(words)),
    "histogram": _histogram,
    "double_histogram": _double_histogram,
    "sort_by_frequency": _sort_by_frequency,
    "pair_balance": _pair_balance,
    "dyck": _dyck,
}


@dataclass(frozen=True)
class Program(Known):
    """A program, its alphabet, and its true circuit.

    `words`: the alphabet, the start word first. `outputs`: what its logits stand for; None: the output is a number.
    `longest`: words of the longest input. `nodes`, `edges`: names of what has an effect on at least one pair (see
    `truth`). `rasp`: the source that was compiled.
    """

    name: str
    words: tuple[Word, ...]
    outputs: tuple[Output, ...] | None
    longest: int
    rasp: str
    nodes: frozenset[str] = frozenset()
    edges: frozenset[str] = frozenset()

    def outputs_of(self, words: Sequence[Word]) -> list[Output]:
        """What the program computes, by the algorithm in plain Python."""
        return ALGORITHMS[self.name](words)

    def inputs(self) -> list[tuple[Word, ...]]:
        """Every input, shortest first."""
        return [words for n in range(1, self.longest + 1) for words in product(self.words[1:], repeat=n)]

    def pairs(self) -> list[Pair]:
        """Every ordered pair of inputs that differ in one word, once for each position whose output differs."""
        found = []
        for clean in self.inputs():
            before = self.outputs_of(clean)
            for place, word in product(range(len(clean)), self.words[1:]):
                if word == clean[place]:
                    continue
                corrupted = (*clean[:place], word, *clean[place + 1 :])
                after = self.outputs_of(corrupted)
                found += [Pair(clean, corrupted, i) for i in range(len(clean)) if before[i] != after[i]]
        return found

    def tokens(self, words: Sequence[Word], read: int | None = None) -> tuple[int, ...]:
        """Token ids of the start word and an input; the position `read` (0: the first word) is moved to the end.

        Raises:
            PromptError: a word that the program does not know, or too many of them.
        """
        if len(words) > self.longest or not words:
            raise PromptError(f"{self.name} takes 1 to {self.longest} words, but got {len(words)}: {list(words)}")
        if unknown := [word for word in words if word not in self.words[1:]]:
            raise PromptError(f"{self.name} knows the words {list(self.words[1:])}, but not {unknown[0]!r}")
        ids = [i * len(self.words) + self.words.index(word) for i, word in enumerate((BOS, *words))]
        return tuple(ids) if read is None else (*ids[: read + 1], *ids[read + 2 :], ids[read + 1])

    def answers(self, pair: Pair) -> tuple[int, int]:
        """The logits whose difference is the metric of a pair: of the clean output, and of the corrupted one."""
        clean, corrupted = (self.outputs_of(words)[pair.read] for words in pair[:2])
        if self.outputs is None:
            return (0, 1) if clean > corrupted else (1, 0)  # type: ignore[operator]
        return self.outputs.index(clean), self.outputs.index(corrupted)
