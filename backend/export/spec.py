"""What an export is to do; it goes on only with the same."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """An export.

    Attributes:
        project: number in Label Studio; None where the tasks come from a file.
        input: a JSON list of tasks.
        label_config: the labelling config.
        source: annotations, predictions or reviewed.
        model_version: of predictions; None: the newest.
        format: name of the format.
        shares: of the splits, together 1; empty: no splits.
        pictures: copy, link or none.
        frame_step: of videos, so many frames further each time.
    """

    model_config = ConfigDict(frozen=True)

    project: int | None = None
    input: Path | None = None
    label_config: str
    source: str = "annotations"
    model_version: str | None = None
    format: str
    shares: tuple[float, ...] = ()
    pictures: str = "copy"
    frame_step: int = 1
