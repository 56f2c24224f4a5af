import pytest

from veracausa.tasks.draw import draw, number, permutation, shuffled, walk


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000])
def test_permutation_visits_each_once(n):
    order = list(permutation(n, "a", 0))
    assert sorted(order) == list(range(n))
    assert n < 7 or order != list(permutation(n, "a", 1)) != list(range(n))


def test_permutation_is_even():
    """The first tenth of a large permutation spreads over the whole range, also in its low digit."""
    first = [v for v, _ in zip(permutation(100_000, "x"), range(10_000), strict=False)]
    tens = [sum(v // 10_000 == k for v in first) for k in range(10)]
    ones = [sum(v % 10 == k for v in first) for k in range(10)]
    assert max(tens + ones) < 1150 and min(tens + ones) > 850


def test_huge_spaces_need_no_listing():
    slots = [range(1000)] * 8
    got = [choice for choice, _ in zip(walk(slots, 5), range(50), strict=False)]
    assert len(set(got)) == 50 and all(len(choice) == 8 for choice in got)


def test_strata_take_turns_until_exhausted():
    choices = list(draw([("a", range(2)), ("b", range(5))], 0))
    assert len(choices) == len(set(choices)) == 7
    assert sorted(c[0] for c in choices[:4]) == ["a", "a", "b", "b"]
    assert choices == list(draw([("a", range(2)), ("b", range(5))], 0))


def test_fixed_for_ever():
    """Published seeds must give the same pairs on every machine, Python and version."""
    assert number("ioi", 0) == 0xD5F4AA85B9925B6
    assert shuffled("abcdef", 0) == ["a", "e", "b", "d", "c", "f"]
    assert list(permutation(10, 0)) == [5, 4, 2, 3, 6, 7, 9, 8, 0, 1]
