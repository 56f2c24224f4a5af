"""The four tasks that swap one word: agreement, pronouns, capitals, classes."""

from collections import Counter

from word_tokenizer import word_tokenizer

from veracausa.tasks import capital_country, gendered_pronoun, hypernymy, subject_verb
from veracausa.tasks.data.capital_country import CAPITALS
from veracausa.tasks.data.hypernymy import CLASSES, OVERLAPS
from veracausa.tasks.data.names import FEMALE, MALE
from veracausa.tasks.data.subject_verb import DISTRACTORS, NOUNS, VERBS


def test_subject_verb(real):
    task = subject_verb(real, n=80)
    singular, plural = dict(NOUNS), {p: s for s, p in NOUNS}
    agree = dict(VERBS) | {p: s for s, p in VERBS}
    for i, info in enumerate(task.info):
        number = info["number"]
        assert info["subject"] in (singular if number == "singular" else plural)
        (right,), (wrong,) = task.answer_strings(i)
        assert right in [v[number == "plural"] for v in VERBS] and agree[right] == wrong
        other = (singular | plural)[info["subject"]]
        assert task.corrupted_text[i] == task.clean_text[i].replace(f" {info['subject']} ", f" {other} ", 1)
    kinds = Counter((info["number"], info["distractor_number"]) for info in task.info)
    assert set(kinds.values()) == {20}, "four kinds take turns"
    assert not {w for n in NOUNS for w in n} & {w for d in DISTRACTORS for w in d}


def test_gendered_pronoun(real):
    task = gendered_pronoun(real, n=72)
    assert not set(FEMALE) & set(MALE)
    for i, info in enumerate(task.info):
        female = info["name"] in FEMALE
        assert (info["corrupted_name"] in MALE) == female
        assert task.answer_strings(i) == (([" she"], [" he"]) if female else ([" he"], [" she"]))
        assert task.corrupted_text[i] == task.clean_text[i].replace(info["name"], info["corrupted_name"])
    assert sum(info["name"] in FEMALE for info in task.info) == 36


def test_names_of_several_tokens_may_be_used():
    """Where no name is a single token, couples of equally long ones still make pairs."""
    from word_tokenizer import digit_pair_tokenizer

    from veracausa.tasks.data.gendered_pronoun import TEMPLATES

    tokenizer = digit_pair_tokenizer()
    tokenizer.add_tokens([" she", " he"])
    task = gendered_pronoun(tokenizer, n=10)
    assert all(len(info["name"]) == len(info["corrupted_name"]) for info in task.info)
    assert {info["template"] for info in task.info} <= set(range(len(TEMPLATES)))


def test_capital_country(real):
    task = capital_country(real, n=60)
    for i, info in enumerate(task.info):
        country, other = info["country"], info["corrupted_country"]
        assert task.answer_strings(i) == ([f" {CAPITALS[country]}"], [f" {CAPITALS[other]}"])
        assert task.corrupted_text[i] == task.clean_text[i].replace(country, other)


def test_one_capital_of_two_countries_is_not_set_against_itself():
    text = "The capital city of England the United Kingdom France is name Everyone knows that As for , Q : A What ?"
    text += " London Paris"
    task = capital_country(word_tokenizer(text.split()), n=10)
    couples = {(info["country"], info["corrupted_country"]) for info in task.info}
    assert couples == {("England", "France"), ("France", "England")}


def test_hypernymy(real):
    task = hypernymy(real, n=100)
    of = {word: name for name, words in CLASSES.items() for word in words}
    assert sum(map(len, CLASSES.values())) == len(of), "a word has one class"
    for i, info in enumerate(task.info):
        word, other = info["word"], info["corrupted_word"]
        assert task.answer_strings(i) == ([f" {of[word]}"], [f" {of[other]}"])
        assert {of[word], of[other]} not in OVERLAPS
        assert task.corrupted_text[i] == task.clean_text[i].replace(f" {word} ", f" {other} ")
        assert f"{'an' if word[0] in 'aeiou' else 'a'} {word} is" in task.clean_text[i].lower()
    assert len({of[info["word"]] for info in task.info}) > 8
