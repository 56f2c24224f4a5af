"""Given names, by the pronoun that most English readers would use; a tokenizer keeps those it has as one token.

Names that are also common words (Grace, Mark, Will, …) or used for both genders (Alex, Jordan, …) are left out.
"""

from veracausa.tasks.data import words

FEMALE = words(
    """
    Mary Sarah Emma Anna Laura Julia Jessica Jennifer Lisa Linda Susan Karen Nancy Elizabeth Margaret Barbara
    Patricia Maria Michelle Amanda Melissa Stephanie Rebecca Rachel Emily Katherine Catherine Christine Alice Helen
    Diana Jane Kate Amy Lucy Sophie Sophia Olivia Isabella Mia Charlotte Amelia Ella Clara Eva Nina Sandra Angela
    Monica Victoria Samantha Nicole Natalie Hannah Megan Lauren Caroline Claire Eleanor Ellen Martha Ruth
    Esther Judith Deborah Donna Carol Sharon Cynthia Kathleen Heather Tiffany Danielle Allison Erin Vanessa
    Veronica Valerie Monique Teresa Theresa Louise Marie Anne Ann Annie Betty Dorothy Edith Elaine Florence Frances
    Gloria Irene Joan Josephine Julie Lydia Marilyn Molly Naomi Nora Pamela Paula Phoebe Priya Rosa Sally Sara
    Sheila Sylvia Tina Wendy Zoe Abigail Beth Chloe Elena Fiona Gabrielle Leah Maya Melanie Miranda
    """
)
MALE = words(
    """
    John James Robert Michael William David Richard Joseph Thomas Charles Daniel Matthew Anthony Steven Paul Andrew
    Kenneth George Kevin Brian Edward Ronald Timothy Jason Jeffrey Ryan Jacob Gary Nicholas Eric Stephen Jonathan Larry
    Justin Scott Brandon Benjamin Samuel Gregory Raymond Patrick Jack Dennis Jerry Tyler Aaron Henry Adam Peter Simon
    Nathan Arthur Harold Albert Joe Bruce Philip Carl Ralph Roy Louis Alan Alexander Oliver Harry Oscar Leo Luke
    Noah Ethan Liam Lucas Mason Logan Isaac Martin Victor Vincent Walter Fred Frederick Hugh Ian Keith Neil Graham
    Howard Stanley Leonard Eugene Russell Douglas Roger Ben Dan Tom Tim Jim Bob Tony Greg Jeff Steve Mike Matt
    Andy Kyle Derek Sean Colin Edgar Felix Hugo Ivan Carlos Diego Pedro Juan Luis Miguel Antonio Francisco Jorge
    """
)
