"""Everything that `model/` can refuse, as exception types whose messages say what to do."""


class ModelError(Exception):
    """Base class of the errors that `model/` raises on purpose."""


class PromptError(ModelError, ValueError):
    """A prompt that cannot be used: no content, not finite, outside the picture, an empty box or mask."""


class PictureError(ModelError, ValueError):
    """A picture that cannot be used: not a picture, truncated, no pixels, an unknown shape or dtype."""


class PictureTooLargeError(PictureError):
    """A picture with more pixels or bytes than the limit allows."""


class VideoError(ModelError, ValueError):
    """A video that cannot be used: not a video, no frames, frames of several sizes, a frame that is not there."""


class VideoTooLargeError(VideoError):
    """A video with more frames, seconds, pixels or bytes than the limit allows."""


class CheckpointError(ModelError):
    """Weights or configuration that cannot be loaded: the message names the file and the fix."""


class DeviceError(ModelError, ValueError):
    """A device or dtype that this machine does not have."""


class AdapterError(ModelError):
    """A version of a model that is damaged, or was learned on another one; the message says what to do."""


class TuningError(ModelError, ValueError):
    """Work that a model cannot learn from: too little of it, or none held out; the message says what is needed."""


def in_a_line(error: Exception) -> str:
    """What another library says, without the rest of it."""
    # torch.compile's first line says who raised, not what
    lines = [line for line in str(error).strip().splitlines() if not line.endswith(" raised:")]
    return lines[0] if lines else type(error).__name__
