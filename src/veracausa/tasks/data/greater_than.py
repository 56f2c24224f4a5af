"""Sentences of the Greater-Than task: {noun} is something that lasts, {start} its first year, {century} two digits."""

from veracausa.tasks.data import words

TEMPLATES = (
    "The {noun} lasted from the year {start} to the year {century}",
    "The {noun} started in the year {start} and ended in the year {century}",
    "The {noun} began in {start} and went on until {century}",
)
NOUNS = words(
    """
    war siege project expedition dynasty famine plague voyage conflict campaign dispute crisis alliance rebellion
    drought trial journey partnership negotiation experiment tour excavation festival boycott strike occupation
    construction investigation pilgrimage trade friendship marriage reign feud epidemic
    """
)
CENTURIES = words("11 12 13 14 15 16 17 18")
