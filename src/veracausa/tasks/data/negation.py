"""Adjectives with their opposites, things that can be both, and sentences that say it and then say it again."""

from veracausa.tasks.data import words

#: (adjective, opposite, things); both directions are used.
OPPOSITES = (
    ("hot", "cold", words("soup tea water coffee room oven plate food")),
    ("open", "closed", words("door window gate shop store box book museum")),
    ("full", "empty", words("glass box bottle bag room bus basket tank")),
    ("clean", "dirty", words("shirt kitchen floor car plate room dog window")),
    ("big", "small", words("house dog car town garden box ship room")),
    ("fast", "slow", words("train car horse bus computer boat runner bike")),
    ("wet", "dry", words("towel floor shirt grass road dog hair coat")),
    ("strong", "weak", words("rope army team king horse bridge wind light")),
    ("rich", "poor", words("king farmer family city man woman country town")),
    ("happy", "sad", words("boy girl teacher dog child farmer king singer")),
    ("tall", "short", words("boy girl tree tower man woman player teacher")),
    ("young", "old", words("man woman teacher king dog singer doctor farmer")),
    ("right", "wrong", words("answer number date word name price result plan")),
    ("good", "bad", words("idea news film plan weather food team song")),
    ("easy", "hard", words("test question game task exam job lesson book")),
    ("cheap", "expensive", words("car house ticket ring coat hotel phone watch")),
    ("heavy", "light", words("box bag book coat stone table chair bike")),
    ("true", "false", words("story claim rumor statement report answer news message")),
)
TEMPLATES = (
    "The {noun} is {negation} {adjective}. The {again} is",
    "I can tell you that the {noun} is {negation} {adjective}. In other words, the {again} is",
    "When I saw the {noun}, it was {negation} {adjective}. So the {again} was",
    "Everyone says that the {noun} is {negation} {adjective}, so I believe that the {again} is",
)
#: What stands in the place of "not" where it is said that it is so.
AFFIRMING = words("very really quite rather so truly always now")
