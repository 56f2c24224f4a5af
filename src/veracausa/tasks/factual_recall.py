"""Factual recall with paraphrases: "As everyone knows, the language of Spain is" → " Spanish"."""

from __future__ import annotations

from typing import Any

from veracausa.choices import FactualRecallCorruption, MetricName
from veracausa.tasks.corruption import pick, require_corruption
from veracausa.tasks.data.factual_recall import FACTS, FRAMES, RELATIONS
from veracausa.tasks.draw import draw, shuffled, size
from veracausa.tasks.pairs import Pair, checked, collect
from veracausa.tasks.slots import filled, prompts
from veracausa.tasks.task import Task
from veracausa.tasks.tokens import encode, single, tokenizer_of, width

CORRUPTIONS = ("subject", "relation", "paraphrase")


def factual_recall(
    lm: Any,
    n: int = 64,
    *,
    seed: int = 0,
    corruption: FactualRecallCorruption = "subject",
    metric: MetricName = "logit_diff",
) -> Task:
    """A country and its capital, language or continent, asked for in six ways; correct: the fact.

    `corruption="subject"`: another country, of equally many tokens. `"relation"`: another fact of the same country.
    `"paraphrase"`: the same question in other words (a control: the answer stays right, so the gap is small; pairs
    whose questions are equally long). Incorrect is what the corrupted prompt asks for, of "paraphrase" another
    country's fact. All give clean prompts in the same order for the same seed. Facts are single tokens.
    Spans: "subject", "relation".
    Raises TaskError if n is more than can be made, MethodError for a metric that does not exist.

    >>> task = vc.tasks.factual_recall(lm, n=32, corruption="relation")
    """
    require_corruption("factual-recall", corruption, CORRUPTIONS)
    n, seed = checked(n, seed, metric)
    tokenizer = tokenizer_of(lm)
    facts = {
        (country, relation): fact
        for country, all_facts in FACTS.items()
        for relation, fact in zip(RELATIONS, all_facts, strict=True)
        if single(tokenizer, f" {fact}") and fact != country
    }
    widths = {country: width(tokenizer, country) for country in FACTS}
    strata = [
        ((f,), (relation,), [c for c, r in facts if r == relation])
        for f in range(len(FRAMES))
        for relation in RELATIONS
    ]

    def pair(choice: tuple[Any, ...]) -> Pair | None:
        f, relation, country = choice
        key, fact = ("factual-recall", seed, *choice), facts[country, relation]
        others = [c for c, r in facts if r == relation and widths[c] == widths[country] and facts[c, r] != fact]
        clean, frame = {"subject": country, "relation": relation}, FRAMES[f]
        changed, other = dict(clean), frame
        if corruption == "relation":
            relations = [r for c, r in facts if c == country and r != relation and facts[c, r] != fact]
            if not relations:
                return None
            changed["relation"] = pick(relations, *key, "relation")
            wrong = facts[country, changed["relation"]]
        elif not others:
            return None
        else:
            drawn = pick(others, *key, "subject")
            wrong = facts[drawn, relation]
            if corruption == "subject":
                changed["subject"] = drawn
            else:
                other = _paraphrase(tokenizer, f, clean, key)
        return Pair(
            **prompts(frame, clean, changed, {"subject": "subject", "relation": "relation"}, other=other),
            correct=(f" {fact}",),
            incorrect=(f" {wrong}",),
            info={"template": f, "country": country, "relation": relation, "corrupted_country": changed["subject"]},
        )

    return collect(
        tokenizer,
        "factual-recall",
        (pair(choice) for choice in draw(strata, "factual-recall", seed)),
        n=n,
        seed=seed,
        metric=metric,
        most=sum(size(slots) for slots in strata),
        why=f"{len(facts)} facts are single tokens",
        options={"corruption": corruption},
    )


def _paraphrase(tokenizer: Any, f: int, words: dict[str, str], key: tuple[Any, ...]) -> str:
    """Another frame, which makes as many tokens of these words; the same one if there is none."""
    length = len(encode(tokenizer, filled(FRAMES[f], words)[0]))
    others = shuffled([frame for frame in FRAMES if frame != FRAMES[f]], *key, "frame")
    alike = (one for one in others if len(encode(tokenizer, filled(one, words)[0])) == length)
    return next(alike, FRAMES[f])
