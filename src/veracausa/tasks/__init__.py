"""Tasks: pairs of clean and corrupted prompts, their answers, and the metric that reads them.

>>> task = vc.tasks.ioi(lm, n=64, seed=0)
>>> task = vc.task(lm, clean=[...], corrupted=[...], correct=[...], incorrect=[...])
"""

from veracausa.tasks.arithmetic import arithmetic
from veracausa.tasks.capital_country import capital_country
from veracausa.tasks.coloured_objects import coloured_objects
from veracausa.tasks.custom import published_pair, task
from veracausa.tasks.docstring import docstring
from veracausa.tasks.factual_recall import factual_recall
from veracausa.tasks.gendered_pronoun import gendered_pronoun
from veracausa.tasks.greater_than import greater_than
from veracausa.tasks.hypernymy import hypernymy
from veracausa.tasks.induction import induction
from veracausa.tasks.ioi import ioi
from veracausa.tasks.metrics import METRICS, Answers, Metric, metric
from veracausa.tasks.multiple_choice import multiple_choice
from veracausa.tasks.negation import negation
from veracausa.tasks.references import reference
from veracausa.tasks.registry import BUILTIN, build
from veracausa.tasks.sentiment import sentiment
from veracausa.tasks.subject_verb import subject_verb
from veracausa.tasks.task import Task

__all__ = [
    "BUILTIN",
    "METRICS",
    "Answers",
    "Metric",
    "Task",
    "arithmetic",
    "build",
    "capital_country",
    "coloured_objects",
    "docstring",
    "factual_recall",
    "gendered_pronoun",
    "greater_than",
    "hypernymy",
    "induction",
    "ioi",
    "metric",
    "multiple_choice",
    "negation",
    "published_pair",
    "reference",
    "sentiment",
    "subject_verb",
    "task",
]
