"""The table of models, and how a name becomes a folder: bundled, local, or from the Hugging Face hub."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from model.errors import CheckpointError
from model.loading.folder import missing_files, model_folder
from model.loading.hub_errors import cannot_download, incomplete

BUNDLED = Path(__file__).parent.parent / "checkpoints"
SAM2_HUB_ID = "facebook/sam2.1-hiera-large"
SAM2_FILE = "sam2.1_hiera_large.pt"

_WANTED = ["*.json", "*.safetensors", "*.txt"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class KnownModel:
    """One row of the table.

    Attributes:
        name: what people type after --model.
        hub_id: on the Hugging Face hub; None for a bundled checkpoint.
        download_gb: of the weights in GB, SAM 2.1-large (0.9) included.
        memory_gb: GB of device memory for a worker in bfloat16, estimated from the weights, not measured.
        summary: what it is for.
    """

    name: str
    hub_id: str | None
    download_gb: float
    memory_gb: float
    summary: str


KNOWN = (
    # parameters in bfloat16, with the copies that the folders hold of SAM 2 and of the tied head (PAM-3B's page: 7.3)
    KnownModel("PAM-1.5B", "Perceive-Anything/PAM-1.5B", 4.9, 8.0, "photographs, 8 GB GPUs"),
    KnownModel("PAM-3B", "Perceive-Anything/PAM-3B", 8.2, 12.0, "photographs, best answers"),
)


@dataclass(frozen=True)
class Location:
    """Where a model lies.

    Attributes:
        name: what to call it: of the table, of the folder, of the hub's repository; with @ and the commit if one was
            asked for.
        folder: that holds config.json.
        hub_id: the hub's repository it is from; None for a folder of one's own and a bundled checkpoint.
        commit: of that repository, 40 hexadecimal digits.
    """

    name: str
    folder: Path
    hub_id: str | None = None
    commit: str | None = None


def known(name: str) -> KnownModel | None:
    """The table's row of that name, in any case, with or without a commit."""
    bare = _pinned(name)[0]
    return next((row for row in KNOWN if row.name.lower() == bare.lower()), None)


def resolve(name: str | Path) -> Location:
    """Where a model lies: a folder, a bundled checkpoint, or what the hub's cache holds (downloaded if need be).

    Args:
        name: a folder, or one that holds the model's (as the published repositories do); a name of `KNOWN` or of a
            bundled checkpoint; or a hub id. After a name or a hub id, `@` and 40 hexadecimal digits pin a commit.

    Raises:
        CheckpointError: there is no such folder and no such model, or the hub's copy cannot be had; the message says
            why.
    """
    text, folder = str(name), Path(name).expanduser()
    # a folder that happens to be called like a model, as the project's own `tiny/`, counts if it holds one
    if (found := model_folder(folder)) is not None:
        return Location(folder.name or found.resolve().name, found)
    if text in bundled_names():
        return Location(text, BUNDLED / text)
    bare, commit = _pinned(text)
    row = known(text)
    if row is None and folder.is_dir():
        raise CheckpointError(
            f"{folder} holds no model: neither it nor a folder directly in it has a config.json; its download stopped "
            "half-way, or it is another folder"
        )
    if commit is not None and (bare in bundled_names() or Path(bare).expanduser().is_dir()) and row is None:
        raise CheckpointError(f"{bare} lies on this machine, which keeps no commits of it: give it without @{commit}")
    hub_id = row.hub_id if row else bare
    if hub_id is None or hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")) or "@" in hub_id:
        names = ", ".join(_names())
        pins = "; after @ stand the 40 hexadecimal digits of a commit" if "@" in text else ""
        near = get_close_matches(bare.lower(), {name.lower(): name for name in _names()}, 1, 0.6)
        meant = f" (did you mean {next(name for name in _names() if name.lower() == near[0])}?)" if near else ""
        raise CheckpointError(
            f"no model {text!r}{meant}: give a folder, one of {names}, or a hub id like owner/name{pins}"
        )
    return _from_hub(row.name if row else hub_id.split("/")[1], hub_id, commit)


def _pinned(name: str) -> tuple[str, str | None]:
    """The name without its commit, and the commit."""
    bare, _, commit = name.rpartition("@")
    return (bare, commit.lower()) if bare and _COMMIT.fullmatch(commit.lower()) else (name, None)


def bundled_names() -> list[str]:
    """Names of the checkpoints that lie in the project."""
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "config.json").is_file()) if BUNDLED.is_dir() else []


def _names() -> list[str]:
    return [*bundled_names(), *(row.name for row in KNOWN)]


def _from_hub(name: str, hub_id: str, commit: str | None) -> Location:
    """Download a model's folder, or find it in the cache; files that are complete are not downloaded again."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = Path(snapshot_download(hub_id, revision=commit, allow_patterns=_WANTED))
    except Exception as error:
        raise cannot_download(hub_id, commit, error, _WANTED) from None
    folder = model_folder(snapshot)
    # a cache that was filled by an older client, or copied, has no listing that would tell its client
    missing = missing_files(folder) if folder is not None else ["config.json"]
    if folder is None or missing:
        raise incomplete(hub_id, folder or snapshot, missing)
    of = snapshot.name if _COMMIT.fullmatch(snapshot.name) else None
    return Location(f"{name}@{commit}" if commit else name, folder, hub_id, of)


def fetch_sam2() -> Path:
    """Download SAM 2.1-large, or find it in the cache.

    Raises:
        CheckpointError: it cannot be had; the message says why.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(SAM2_HUB_ID, SAM2_FILE))
    except Exception as error:
        raise cannot_download(SAM2_HUB_ID, None, error, SAM2_FILE) from None
