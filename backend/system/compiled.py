"""Where what is compiled for a GPU is kept, so that the next start finds it."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path


def keep_in(folder: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Keep it in `folder`, where the environment does not name another; before anything is compiled.

    Triton's too, which else looks into the home directory first; a container's may be read-only.
    """
    kept = environment.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.absolute()))
    environment.setdefault("TRITON_CACHE_DIR", str(Path(kept) / "triton"))
