"""Words by the class they belong to, and sentences that ask for the class."""

from veracausa.tasks.data import words

TEMPLATES = (
    "{A} {word} is a kind of",
    "{A} {word} is a type of",
    "I learned that {a} {word} is a kind of",
    "My sister told me that {a} {word} is a type of",
)
# words with a second common meaning (crane, bass, orange) are left out
CLASSES = {
    "bird": words("robin sparrow eagle pigeon parrot penguin owl falcon hawk crow goose duck seagull pelican raven"),
    "fish": words("salmon trout tuna carp cod herring sardine eel mackerel halibut"),
    "fruit": words("banana mango peach pear plum cherry strawberry lemon grape apple pineapple melon apricot fig"),
    "vegetable": words("carrot potato onion cabbage cucumber turnip leek radish lettuce zucchini"),
    "tree": words("oak pine maple birch willow cedar spruce elm poplar fir"),
    "flower": words("rose tulip lily daisy orchid violet daffodil carnation sunflower dandelion"),
    "insect": words("bee wasp ant beetle butterfly moth mosquito grasshopper cricket cockroach"),
    "instrument": words("violin piano guitar flute trumpet cello clarinet harp saxophone banjo trombone"),
    "vehicle": words("car truck bus van motorcycle tractor bicycle taxi ambulance"),
    "weapon": words("sword rifle pistol spear dagger gun cannon musket"),
    "tool": words("hammer screwdriver wrench shovel drill rake chisel axe"),
    "dog": words("poodle terrier bulldog beagle collie spaniel retriever dachshund"),
    "boat": words("canoe kayak yacht ferry raft sailboat dinghy"),
    "shoe": words("sandal sneaker boot slipper loafer"),
    "mammal": words("cow horse sheep goat pig lion tiger elephant rabbit bear wolf fox deer monkey cat"),
}
# classes that are not set against each other: a word of one is, or can be, also in the other
OVERLAPS = (
    {"dog", "mammal"},
    {"boat", "vehicle"},
    {"fruit", "tree"},
    {"fruit", "vegetable"},
    {"tool", "weapon"},
    {"tool", "instrument"},
)
