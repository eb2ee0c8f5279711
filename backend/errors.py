"""Every error that leaves the plug-in: its type, its HTTP code, and whether asking again later can help."""

from __future__ import annotations

from typing import Any


class BackendError(Exception):
    """Base class; the message says what is wrong and what to do, and is safe to show to anybody."""

    status = 500
    retry_after_s: int | None = None
    annotator_can_help = False
    """Whether the person who clicked can do something about it: then the reason is shown in the picture."""

    @property
    def type(self) -> str:
        return type(self).__name__

    def to_wire(self) -> dict[str, Any]:
        """The error as JSON values, for an HTTP answer or a job's reply."""
        return {"type": self.type, "message": str(self)}


class BadRequest(BackendError):
    """Broken JSON, a missing or wrong field."""

    status = 400


class ConfigError(BackendError):
    """A labelling config that cannot be worked with: broken XML, no image, no usable control, unknown names."""

    status = 400


class PromptError(BackendError):
    """A click or a box that cannot be used: outside the picture, not finite, empty, inverted."""

    status = 400
    annotator_can_help = True


class Unauthorized(BackendError):
    """User and password are missing or wrong."""

    status = 401


class Forbidden(BackendError):
    """A request that nobody may send: from a page in a browser."""

    status = 403


class PictureForbidden(BackendError):
    """The picture's host wants a token that we lack, or a local file lies outside the allowed roots."""

    status = 403
    annotator_can_help = True


class NotFound(BackendError):
    """No such page."""

    status = 404


class PictureNotFound(BackendError):
    """The picture's host, or the disk, does not have it."""

    status = 404
    annotator_can_help = True


class MethodNotAllowed(BackendError):
    """The page exists, the HTTP method does not."""

    status = 405


class BodyTooLarge(BackendError):
    """A request body over the limit."""

    status = 413


class PictureTooLarge(BackendError):
    """A picture or video of more bytes, pixels, seconds or frames than the limits allow."""

    status = 413
    annotator_can_help = True


class PictureError(BackendError):
    """Not a picture or video, truncated, 0 bytes."""

    status = 422
    annotator_can_help = True


class WorkerError(BackendError):
    """The worker failed in a way nobody foresaw; the log has the traceback under the request's id."""

    status = 500


class PictureExpired(BackendError):
    """A picture that came with the request is not in Redis any more when its turn comes; sent again it is there."""

    status = 503
    annotator_can_help = True
    retry_after_s = 5


class PictureUnreachable(BackendError):
    """The picture's host does not answer, or answers with a fault of its own."""

    status = 502
    annotator_can_help = True


class QueueDown(BackendError):
    """Redis cannot be reached."""

    status = 503
    retry_after_s = 5


class QueueFull(BackendError):
    """More requests wait than the limit allows."""

    status = 503
    annotator_can_help = True
    retry_after_s = 10


class NoWorker(BackendError):
    """No worker is running."""

    status = 503
    annotator_can_help = True
    retry_after_s = 10


class ModelLoading(BackendError):
    """The workers are still loading the model."""

    status = 503
    annotator_can_help = True
    retry_after_s = 10


class WorkerDied(BackendError):
    """The worker went away during the job."""

    status = 503
    annotator_can_help = True
    retry_after_s = 5


class LabelStudioAway(BackendError):
    """Label Studio does not answer, is busy (429), or a proxy before it answers for it (502 to 504)."""

    status = 503
    retry_after_s = 10


class LabelStudioRefused(BackendError):
    """Label Studio does not let us: the token is missing, wrong, or may not do this."""

    status = 403


class TaskGone(BackendError):
    """Label Studio has no such task, project or view any more."""

    status = 404


class LabelStudioFault(BackendError):
    """Label Studio does not take what we send, or fails on it."""

    status = 502


class VersionError(BackendError):
    """A version of the model that cannot be used: it is not there, damaged, or was learned on another model."""

    status = 422


class FitError(BackendError):
    """Nothing can be learned now: too little was reviewed, another run is under way, or the disk has no room."""

    status = 422


class JobTimeout(BackendError):
    """The job took longer than its limit, or its turn did not come in time."""

    status = 504
    annotator_can_help = True


_BY_NAME = {cls.__name__: cls for cls in BackendError.__subclasses__()}

_FROM_MODEL = {
    "AdapterError": VersionError,
    "TuningError": FitError,
    "PromptError": PromptError,
    "PictureError": PictureError,
    "PictureTooLargeError": PictureTooLarge,
    "VideoError": PictureError,
    "VideoTooLargeError": PictureTooLarge,
}


def names() -> set[str]:
    """Of all the errors' types."""
    return set(_BY_NAME)


def from_wire(error: dict[str, Any]) -> BackendError:
    """The exception that a worker put into its reply."""
    cls = _BY_NAME.get(str(error.get("type")), WorkerError)
    return cls(str(error.get("message", "the worker gave no reason")))


def from_model(error: Exception) -> BackendError | None:
    """The counterpart of an error of `model/` that a request can cause; None for all others."""
    for cls in type(error).__mro__:
        if cls.__name__ in _FROM_MODEL:
            return _FROM_MODEL[cls.__name__](str(error))
    return None
