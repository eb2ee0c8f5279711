"""What comes of a /predict."""

from __future__ import annotations

from dataclasses import dataclass, field

from backend.errors import BackendError
from backend.job import JobReply
from backend.label_studio.protocol import Prediction


@dataclass
class Outcome:
    """What comes of a /predict.

    Attributes:
        predictions: one entry for each task; None where nothing is to be predicted.
        reply: of a click's job.
        seconds: of a click by stage.
        whole_s: from the click's plan to its prediction, seconds.
        late: ids of tasks that were not ready in time.
        shown: the error that the annotator is shown instead of a prediction.
    """

    predictions: list[Prediction | None]
    reply: JobReply | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    whole_s: float = 0.0
    late: tuple[int | None, ...] = ()
    shown: BackendError | None = None
