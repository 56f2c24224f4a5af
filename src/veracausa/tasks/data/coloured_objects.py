"""Sentences about three things of three colours; {asked} is the thing whose colour comes next."""

TEMPLATES = (
    "On the table there is a {c0} {o0}, a {c1} {o1} and a {c2} {o2}. The color of the {asked} is",
    "I bought a {c0} {o0}, a {c1} {o1} and a {c2} {o2}. The {asked} that I bought is",
    "In the room I see a {c0} {o0}, a {c1} {o1} and a {c2} {o2}. What color is the {asked}? It is",
    "She has a {c0} {o0}. She also has a {c1} {o1} and a {c2} {o2}. So her {asked} is",
    "The {o0} is {c0}, the {o1} is {c1} and the {o2} is {c2}. As I said, the {asked} is",
)
