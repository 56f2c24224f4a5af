"""Questions with four answers, of which the sentence before says the right one."""

_OPTIONS = "{s0}. {c0}\n{s1}. {c1}\n{s2}. {c2}\n{s3}. {c3}\n"
TEMPLATES = (
    f"The {{object}} is {{fact}}. What color is the {{asked}}?\n{_OPTIONS}Answer:",
    f"A {{object}} is {{fact}}. Question: What is the color of this {{asked}}?\n{_OPTIONS}The correct answer is",
    f"Remember: the {{object}} is {{fact}}.\nWhich color does the {{asked}} have?\n{_OPTIONS}The right answer is",
)
LETTERS = ("A", "B", "C", "D")
#: Other symbols; letters that are words of their own are left out.
OTHERS = ("E", "F", "G", "H", "J", "K", "L", "M", "N", "P", "Q", "R", "S", "T", "U", "V", "W", "X", "Y", "Z")
