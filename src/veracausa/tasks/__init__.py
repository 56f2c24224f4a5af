"""Tasks: pairs of clean and corrupted prompts, their answers, and the metric that reads them.

>>> task = vc.tasks.ioi(lm, n=64, seed=0)
>>> task = vc.task(lm, clean=[...], corrupted=[...], correct=[...], incorrect=[...])
"""

from veracausa.tasks.capital_country import capital_country
from veracausa.tasks.custom import published_pair, task
from veracausa.tasks.gendered_pronoun import gendered_pronoun
from veracausa.tasks.greater_than import greater_than
from veracausa.tasks.hypernymy import hypernymy
from veracausa.tasks.ioi import ioi
from veracausa.tasks.metrics import METRICS, Answers, Metric, metric
from veracausa.tasks.registry import BUILTIN, build
from veracausa.tasks.subject_verb import subject_verb
from veracausa.tasks.task import Task

__all__ = [
    "BUILTIN",
    "METRICS",
    "Answers",
    "Metric",
    "Task",
    "build",
    "capital_country",
    "gendered_pronoun",
    "greater_than",
    "hypernymy",
    "ioi",
    "metric",
    "published_pair",
    "subject_verb",
    "task",
]
