"""`Setup`: which model, which pairs, where to: what every command takes, checked before the model is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from veracausa.cli.checks import (
    anatomy_of,
    columns_of,
    is_file,
    metric_of,
    places_of,
    require_corruption,
    require_digits,
    require_dtype,
    require_folder,
    require_table,
    require_task,
)
from veracausa.cli.command import BEGUN, Options
from veracausa.cli.options import (
    Align,
    Anatomy,
    Columns,
    Corruption,
    Device,
    Digits,
    Dtype,
    Folder,
    Json,
    Memory,
    Metric,
    ModelName,
    Out,
    Over,
    Pairs,
    Read,
    Seed,
    TaskName,
    Unequal,
    Unpaired,
)
from veracausa.extras import require_extra
from veracausa.loading.wheels import PACKAGED
from veracausa.storage.files import at
from veracausa.tasks.custom import PUBLISHED
from veracausa.terminal import say

if TYPE_CHECKING:
    from veracausa import choices
    from veracausa.loading.resolve import Loaded
    from veracausa.model import Model
    from veracausa.tasks.task import Task

#: The model where none is named.
MODEL = next(iter(PACKAGED))


class ModelSetup(Options):
    """What a command takes that runs a model."""

    model: ModelName = MODEL
    device: Device = None
    dtype: Dtype = None
    anatomy: Anatomy = None
    memory: Memory = None
    json: Json = False

    def find_model(self) -> Loaded:
        """The Hugging Face model and where it comes from, not yet read as a decoder; errors as `vc.load`."""
        from veracausa.anatomy import require_family
        from veracausa.loading.resolve import resolve

        require_dtype(self.dtype)
        require_family(anatomy_of(self.anatomy))
        return resolve(self.model, device=self.device, dtype=self.dtype)

    def load_model(self, found: Loaded | None = None) -> Model:
        """The model, and on standard error what it is; errors as `vc.load`. `found`: by `find_model`."""
        from veracausa.loading.load import bound

        lm = bound(found or self.find_model(), anatomy_of(self.anatomy))
        say(f"model  {lm.source}\n       {lm}")
        return lm


class TaskSetup(ModelSetup):
    """What a command takes that runs a model on pairs."""

    task: TaskName
    n: Pairs = 32
    seed: Seed = 0
    corruption: Corruption = None
    digits: Digits = None
    metric: Metric = None
    columns: Columns = None
    unequal: Unequal = "refuse"
    align: Align = None
    read: Read = "-1"
    over: Over = None
    unpaired: Unpaired = False

    def require(self) -> None:
        """Check everything that can be checked before the model is loaded; errors say what is wrong with it."""
        require_dtype(self.dtype)
        require_table(self.task, self.columns, self.unequal, self.align)
        require_task(self.task, self.metric, columns_of(self.columns), places_of(self.read), not self.unpaired)
        require_corruption(self.task, self.corruption)
        require_digits(self.task, self.digits, self.metric)

    def ready(self) -> tuple[Model, Task]:
        """Model and pairs, once everything that can be is checked, and on standard error what they are."""
        self.require()
        lm = self.load_model()
        task = self.build(lm)
        say(f"task   {task.describe()}")
        BEGUN.set(True)
        return lm, task

    def build(self, lm: Model, name: str | None = None, seed: int | None = None) -> Task:
        """The pairs of the task, or of another one (`name`), or drawn with another seed."""
        from veracausa import tasks

        name, seed = self.task if name is None else name, self.seed if seed is None else seed
        if is_file(name):
            options: dict[str, Any] = {"metric": metric_of(self.metric), "read": places_of(self.read)}
            options |= {"over": self.over, "paired": not self.unpaired, "align": self.align}
            return tasks.task(
                lm, at(name), columns=columns_of(self.columns), unequal=cast("choices.Unequal", self.unequal), **options
            )
        kind: dict[str, Any] = {} if self.corruption is None or name != self.task else {"corruption": self.corruption}
        if self.digits is not None and name == self.task:
            kind |= {"digits": self.digits, "metric": self.metric or "logprob"}
        built = tasks.published_pair(lm) if name == PUBLISHED else tasks.build(name, lm, n=self.n, seed=seed, **kind)
        return built if self.metric is None else built.with_metric(cast("choices.MetricName", metric_of(self.metric)))


class Setup(TaskSetup):
    """What a command takes whose results can be kept."""

    out: Out = None

    def require(self) -> None:
        """The same, and that results can be written."""
        super().require()
        require_folder(self.out)


class PageSetup(TaskSetup):
    """What a command takes that writes a page: there is always a folder for it."""

    out: Folder = Path("out")

    def require(self) -> None:
        """The same, and that the page can be drawn and written."""
        require_extra("charts")
        super().require()
        require_folder(self.out)
