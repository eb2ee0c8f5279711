"""A label memory as a file in the state folder: features as safetensors, what is known of each example beside them."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)


def save(path: Path, model: str, examples: Mapping[str, Any], features: np.ndarray) -> None:
    """Write the file, whole or not at all; where that cannot be done, the log says so.

    Args:
        path: of the file.
        model: whose features they are.
        examples: what is known of each, as JSON values, by its name.
        features: (n, d), in their order.
    """
    from safetensors.numpy import save_file

    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": features.astype(np.float16)}, part, {"model": model, "examples": json.dumps(examples)})
        part.replace(path)
    except Exception as error:  # OSError, or safetensors' own for the same
        log.warning("the label memory %s is in Redis alone: %s", path.stem, ascii(str(error)))
        with contextlib.suppress(OSError):
            part.unlink()


def load(path: Path) -> tuple[str, dict[str, Any], np.ndarray] | None:
    """Model, examples and features as they were saved; None of a file that cannot be read, and the log says so."""
    from safetensors import safe_open

    try:
        with safe_open(path, "np") as file:
            about, features = file.metadata(), file.get_tensor("features")
        examples = json.loads(about["examples"])
        if not isinstance(examples, dict) or features.ndim != 2 or len(examples) != len(features):
            raise ValueError("its parts do not go together")
        return str(about["model"]), examples, features
    except Exception as error:  # whatever a broken file may be
        log.warning("%s is left out: %s: %s", path.name, type(error).__name__, ascii(str(error)[:200]))
        return None
