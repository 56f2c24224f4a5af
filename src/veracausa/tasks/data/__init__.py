"""Word lists of the built-in tasks: plain facts and sentences, in Python so that comments can say why."""


def words(text: str) -> tuple[str, ...]:
    """The words of a block of text."""
    return tuple(text.split())
