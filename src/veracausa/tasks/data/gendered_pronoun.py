"""Sentences that call for the pronoun of {name}; the name never opens the sentence, so it keeps its leading space."""

TEMPLATES = (
    "So {name} is a really great friend, isn't",
    "So {name} was a very good student, wasn't",
    "When {name} came home from work,",
    "Everybody likes {name} because",
    "I have not seen {name} since",
    "The teacher asked {name} to stay because",
    "Yesterday {name} was so tired that",
    "We invited {name} to the party, but",
    "If {name} wins the race,",
    "The doctor told {name} that",
    "After {name} finished the book,",
    "I called {name} this morning, and",
)
