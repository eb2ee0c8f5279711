"""The packages of Debian and npm that hold the drawings and photographs: which they are, and how they are unpacked."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

TEST_BACKGROUNDS = "lomiri-wallpapers-16.04"
"""The package whose photographs are kept for testing."""

STYLES = {
    "noto": "@iconify-json/noto@1.2.9",
    "noto-v1": "@iconify-json/noto-v1@1.2.5",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "openmoji": "@iconify-json/openmoji@1.2.29",
    "fluent-emoji": "@iconify-json/fluent-emoji@1.2.7",
    "fluent-emoji-flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "emojione": "@iconify-json/emojione@1.2.3",
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
}
"""npm packages, each one JSON of SVG drawings of one hand."""
CLIPPINGS = {
    "tuxpaint-stamps-default": "usr/share/tuxpaint/stamps",
    "openclipart-png": "usr/share/openclipart/png",
}
"""Debian packages of cut-out pictures with alpha: photographs, and drawings of many hands."""
BACKGROUNDS = (
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "gnome-backgrounds",
    "ukui-wallpapers",
    "tuxpaint-data",
    "mypaint-data-extras",
    TEST_BACKGROUNDS,
)
"""Debian packages of photographs and textures to paste things on."""


def _run(command: list[str], folder: Path) -> str:
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is needed to fetch the art and is not installed")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-400:]}")
    return done.stdout


def unpack_npm(package: str, folder: Path) -> None:
    """Download a package `name@version` and keep its JSON files in `folder`.

    Raises RuntimeError when npm is missing or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = _run(["npm", "pack", "--silent", package], folder).split()[-1]
    with tarfile.open(folder / name) as tar:
        for member in tar.getmembers():
            if Path(member.name).name in ("icons.json", "info.json", "metadata.json"):
                member.name = Path(member.name).name
                tar.extract(member, folder, filter="data")
    (folder / name).unlink()


def unpack_deb(package: str, folder: Path) -> None:
    """Download a Debian package and unpack it into `folder` without installing it.

    Raises RuntimeError when apt-get or dpkg is missing or fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", package], folder)
    for deb in folder.glob("*.deb"):
        _run(["dpkg", "-x", deb.name, "."], folder)
        deb.unlink()
