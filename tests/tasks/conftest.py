from types import SimpleNamespace

import pytest
from word_tokenizer import word_tokenizer


@pytest.fixture(scope="session", params=["smollm2", "gemma3"])
def real(request):
    """The tokenizer of a real model: SmolLM2 adds no start token, Gemma does; both split numbers into digits."""
    return request.getfixturevalue(request.param).tokenizer


@pytest.fixture(scope="session")
def words():
    """A word tokenizer in the place of a model (a task needs nothing else of it)."""
    text = "After John and Mary Anna went to the store , gave a bottle of milk key keys are is cabinet The x |"
    return SimpleNamespace(name="words", tokenizer=word_tokenizer(text.split()))
