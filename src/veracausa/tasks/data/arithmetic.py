"""Sums in digits and in words, behind sums that are solved."""

from veracausa.tasks.data import words

#: In digits. {answer} is what a tokenizer may need between the sentence and a number.
DIGITS = (
    "2 + 3 = 5\n8 - 2 = 6\n1 + 6 = 7\n{a} {operation} {b} =",
    "Solve: 4 + 1 = 5, 7 - 3 = 4, 2 + 4 = 6, {a} {operation} {b} =",
)
WORDS = (
    "one plus two is three, nine minus two is seven, and {a} {operation} {b} is",
    "Two plus two equals four. Seven minus three equals four. So {a} {operation} {b} equals",
)
NUMBERS = words(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
#: Operation → its sign and its word.
OPERATIONS = {"+": "plus", "-": "minus"}
