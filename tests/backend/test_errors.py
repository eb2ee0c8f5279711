from __future__ import annotations

import pytest

from backend import errors
from model.errors import CheckpointError, PictureError, PictureTooLargeError, PromptError


def test_every_error_survives_the_queue() -> None:
    kinds = [kind for kind in errors.BackendError.__subclasses__() if kind.__module__ == "backend.errors"]
    assert len(kinds) > 15
    for kind in kinds:
        back = errors.from_wire(kind("why").to_wire())
        assert type(back) is kind and str(back) == "why"
        assert 400 <= kind.status < 600
        assert (kind.retry_after_s is not None) == (kind.status == 503)


def test_an_unknown_error_is_the_workers() -> None:
    assert isinstance(errors.from_wire({"type": "SystemExit", "message": "x"}), errors.WorkerError)
    assert isinstance(errors.from_wire({}), errors.WorkerError)


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (PromptError("x"), errors.PromptError),
        (PictureError("x"), errors.PictureError),
        (PictureTooLargeError("x"), errors.PictureTooLarge),
        (CheckpointError("x"), type(None)),
        (KeyError("x"), type(None)),
    ],
)
def test_what_the_model_refuses(raised: Exception, becomes: type) -> None:
    assert type(errors.from_model(raised)) is becomes
