"""Sentences, places and objects of the indirect-object task.

{A} and {B} are introduced in this order, {S} is the one who acts, the sentence ends where the other one is named.
"""

from veracausa.tasks.data import words

TEMPLATES = (
    "After {A} and {B} went to the {place}, {S} gave {object} to",
    "When {A} and {B} arrived at the {place}, {S} handed {object} to",
    "Then {A} and {B} had a long talk at the {place}, and {S} gave {object} to",
    "While {A} and {B} were working at the {place}, {S} passed {object} to",
    "Yesterday {A} and {B} met at the {place}, and afterwards {S} offered {object} to",
    "The day before, {A} and {B} walked to the {place}, where {S} showed {object} to",
    "Because {A} and {B} were late for dinner at the {place}, {S} decided to give {object} to",
    "Friends for years, {A} and {B} often met at the {place}, and one day {S} gave {object} to",
    "At the {place}, {A} and {B} waited for an hour. Finally, {S} gave {object} to",
    "Last week {A} and {B} were seen at the {place}. Before leaving, {S} sold {object} to",
    "As soon as {A} and {B} got back from the {place}, {S} brought {object} to",
    "During a trip to the {place}, {A} and {B} became friends, so {S} sent {object} to",
    "Once {A} and {B} had finished cleaning the {place}, {S} threw {object} to",
    "It was raining when {A} and {B} left the {place}, so {S} lent {object} to",
    "In the morning, {A} and {B} drove to the {place}, and {S} returned {object} to",
    "Since {A} and {B} were alone at the {place}, {S} quietly slid {object} over to",
)
PLACES = words(
    "store school office garden station library market museum hospital restaurant park beach theater farm "
    "hotel airport church harbor bakery"
)
OBJECTS = (
    "a bottle of milk",
    "a book",
    "a letter",
    "the keys",
    "a ring",
    "a cup of tea",
    "some flowers",
    "a basket of apples",
    "the newspaper",
    "a small box",
    "the ticket",
    "a photo",
    "a warm coat",
    "an umbrella",
    "a map",
    "a drink",
    "a sandwich",
    "the camera",
    "a bag of coins",
    "a present",
)
