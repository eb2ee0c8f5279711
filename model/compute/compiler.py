"""What torch.compile needs on a GPU beside torch, and what is said when it begins and where it fails."""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
from pathlib import Path

from model.errors import in_a_line

log = logging.getLogger(__name__)


def lacks() -> str:
    """What Triton would miss here and what to do about it; empty where all is there.

    Once on a machine it builds its link to the driver with a C compiler (triton/runtime/build.py, 3.7).
    """
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "there is no C compiler: `apt install gcc libc6-dev`"
    scheme = sysconfig.get_default_scheme()
    headers = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
    if not (Path(headers) / "Python.h").exists():
        return "Python's headers are not installed: `apt install python3-dev`"
    return ""


def begin(what: str) -> None:
    """Log what a start takes so long for."""
    log.info("compiling %s: a minute or more at a machine's first start, seconds afterwards", what)


def warn(what: str, error: Exception) -> None:
    """Log that `what` is not compiled and runs as it is, and why."""
    missing = lacks()
    log.warning("%s not compiled (%s): it runs as it is%s", what, in_a_line(error), f"; {missing}" if missing else "")
