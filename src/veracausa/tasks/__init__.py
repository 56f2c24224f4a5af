"""Tasks: pairs of clean and corrupted prompts, their answers, and the metric that reads them.

>>> task = vc.tasks.ioi(lm, n=64, seed=0)
>>> task = vc.task(lm, clean=[...], corrupted=[...], correct=[...], incorrect=[...])
"""

from veracausa.tasks.custom import published_pair, task
from veracausa.tasks.ioi import ioi
from veracausa.tasks.metrics import METRICS, Answers, Metric, metric
from veracausa.tasks.task import Task

__all__ = ["METRICS", "Answers", "Metric", "Task", "ioi", "metric", "published_pair", "task"]
