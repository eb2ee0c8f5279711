"""What a bulk job is to do: written once when it begins, kept in Redis with it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from backend.job import Example

ANNOTATIONS, PREDICTIONS, FIELD, PROPOSE = "from-annotations", "from-predictions", "from-field", "propose"


class Spec(BaseModel):
    """A bulk job.

    Attributes:
        project: number in Label Studio; None where the tasks come from a file.
        view: number of a data manager's tab whose tasks are meant.
        task_ids: those are meant; empty: all.
        input: a JSON list of tasks, or a folder of pictures.
        output: where the tasks with their predictions go.
        label_config: the labelling config.
        regions: where the regions come from; None: as the annotations and the config say.
        regions_field: of a task's data, with from-field.
        find: texts that are looked for in every picture, each with the label of what is found; "" leaves that to the
            config and the model.
        like: examples of labels, as they were reviewed, whose like is looked for.
        texts: names of text controls or kinds of texts that are wanted; None: all that the config has.
        url_prefix: what a folder's pictures are called in the output, before their path in the folder.
        limit: at most so many tasks.
        model_version: that tasks are looked at for.
    """

    model_config = ConfigDict(frozen=True)

    project: int | None = None
    view: int | None = None
    task_ids: tuple[int, ...] = ()
    input: Path | None = None
    output: Path | None = None
    label_config: str
    project_key: str = ""
    regions: str | None = None
    regions_field: str = ""
    find: tuple[tuple[str, str], ...] = ()
    like: dict[str, tuple[Example, ...]] = {}
    texts: tuple[str, ...] | None = None
    url_prefix: str | None = None
    limit: int | None = None
    model_version: str = ""

    @property
    def where(self) -> str:
        """In a few words."""
        if self.project is None:
            return f"{self.input} → {self.output}"
        parts = [f"project {self.project}"]
        if self.view is not None:
            parts.append(f"view {self.view}")
        if self.task_ids:
            parts.append(f"{len(self.task_ids)} tasks")
        return ", ".join(parts)
