"""Common words that most tokenizers know as one token, for sequences and names of things."""

from veracausa.tasks.data import words

#: Nouns that have little to do with each other, for sequences at random.
NOUNS = words(
    """
    house river stone paper music tree window bread horse train garden winter doctor letter market bridge island mirror
    summer castle forest engine bottle button camera candle carpet circle corner desert dinner dragon driver farmer
    finger flower friend guitar hammer jacket kitchen ladder lemon lion metal monkey morning mountain number ocean
    orange palace pencil people picture planet pocket potato prison queen rabbit rain ring road rocket school shadow
    ship shirt silver singer snow soldier spring square storm street sugar table teacher temple thunder ticket tiger
    tower valley village water wheel wind wolf worker king gold glass field cloud clock chair brother book boat bird
    bell ball animal apple army baby basket beach
    """
)
#: Things that have a colour.
OBJECTS = words(
    """
    pen cup book ball hat shirt car box bag chair plate lamp key ring coat phone bottle toy clock flag kite card door
    bowl boat bike cap dress glove mug rug sofa spoon tent towel wall brush bed belt button
    """
)
COLOURS = words("red blue green yellow black white brown pink purple gray silver gold")
