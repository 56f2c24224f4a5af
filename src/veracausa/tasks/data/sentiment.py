"""Words of praise and blame, what is judged, and sentences that judge it."""

from veracausa.tasks.data import words

NOUNS = words("movie film book song game show hotel restaurant meal concert play story product phone camera trip")
#: Praise and blame, not paired: any word of one can be exchanged for one of the other of as many tokens.
ADJECTIVES = (
    words("wonderful great amazing excellent perfect brilliant fantastic beautiful lovely incredible"),
    words("terrible awful horrible bad boring poor disappointing ugly stupid dull"),
)
VERBS = (words("loved enjoyed liked admired"), words("hated disliked despised regretted"))
#: What may come next.
VERDICTS = ((" good", " great", " excellent", " amazing"), (" bad", " terrible", " awful", " horrible"))
TEMPLATES = (
    "I thought this {noun} was {adjective}, I {verb} it. Conclusion: this {again} is",
    "The {noun} was {adjective} and everyone {verb} it. In short, the {again} was",
    "Review: this {noun} is {adjective}. I {verb} it. My verdict: the {again} is",
    "We {verb} the {noun}, it was {adjective}. All in all, the {again} was really",
)
