"""Beginnings of lists of words, and what stands between their words."""

#: (what comes first, what stands between two words)
TEMPLATES = (
    ("Words: {list}", " "),
    ("Here is a list of words: {list}", " "),
    ("Read aloud: {list}", ", "),
    ("The words that I have to learn are: {list}", ", "),
)
