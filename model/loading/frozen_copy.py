"""The copy of SAM 2 that a released folder holds: frozen in training, so it should be the published one, rounded.

PAM's own code reads SAM 2 from its own file and never this copy, and so do we, unless it is asked for.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

import torch

from model.errors import CheckpointError
from model.loading.weights import Listing, list_file, list_folder

log = logging.getLogger(__name__)

_PREFIX = "vision_tower."
_INNER = "sam2_model_predictor."
_COMPARED = 6
_LARGEST = 1 << 20
"""Numbers of a tensor that is compared, at most."""


def is_frozen_copy(name: str) -> bool:
    """Whether a tensor of a PAM folder is one of SAM 2's."""
    return name.removeprefix("model.").startswith(_PREFIX)


def list_frozen_copy(folder: Path) -> Listing:
    """The copy in a folder, under SAM 2's own names.

    Raises:
        CheckpointError: the folder has none, or it cannot be read.
    """
    copy = _copy_in(list_folder(folder))
    if not copy.shapes:
        raise CheckpointError(f"{folder} holds no copy of SAM 2: give SAM 2's weight file (--sam2)")
    return copy


def compare(folder: Listing, sam2_weights: Path) -> None:
    """Warn where some tensors of a folder's copy are not those of the SAM 2 that is used, rounded.

    Args:
        folder: a PAM folder's tensors.
        sam2_weights: the file that is used; a folder means the copy itself.

    Raises:
        CheckpointError: one of the two cannot be read.
    """
    copy = _copy_in(folder)
    if not copy.shapes or sam2_weights.is_dir():
        return
    used = list_file(sam2_weights)
    small = sorted(name for name, shape in copy.shapes.items() if math.prod(shape) <= _LARGEST)
    some = small[:: -(-len(small) // _COMPARED)] if small else []
    same = {name: name for name in some if used.shapes.get(name) == copy.shapes[name]}
    theirs = dict(copy.only(same).read())
    equal = [
        name for name, tensor in used.only(same).read() if torch.equal(tensor.to(theirs[name].dtype), theirs[name])
    ]
    other = [name for name in some if name not in equal]
    if other:
        log.warning(
            "%s holds a copy of SAM 2 that is another one than %s, which is used, as PAM's own code does (%d of %d "
            "tensors that were compared differ, first %s); to use the copy: --sam2 %s (PALLAS_SAM2_CHECKPOINT)",
            *(folder.source, sam2_weights, len(other), len(some), other[0], folder.source),
        )


def _copy_in(folder: Listing) -> Listing:
    names = [name for name in folder.shapes if is_frozen_copy(name)]
    return folder.only({name.partition(_PREFIX)[2].removeprefix(_INNER): name for name in names})
