"""The table of models, and how a name becomes a folder: bundled, local, or from the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model.errors import CheckpointError

BUNDLED = Path(__file__).parent.parent / "checkpoints"
SAM2_HUB_ID = "facebook/sam2.1-hiera-large"
SAM2_FILE = "sam2.1_hiera_large.pt"

_WANTED = ["*.json", "*.safetensors", "*.txt"]


@dataclass(frozen=True)
class KnownModel:
    """One row of the table.

    Attributes:
        name: what people type after --model.
        hub_id: on the Hugging Face hub; None for a bundled checkpoint.
        download_gb: of the weights in GB, SAM 2.1-large included where it is needed.
        memory_gb: GB of device memory for a worker in bfloat16, estimated from the weights, not measured.
        summary: what it is for.
    """

    name: str
    hub_id: str | None
    download_gb: float
    memory_gb: float
    summary: str


KNOWN = (
    KnownModel("PAM-1.5B", "Perceive-Anything/PAM-1.5B", 4.0, 8.0, "photographs, 8 GB GPUs"),
    KnownModel("PAM-3B", "Perceive-Anything/PAM-3B", 7.1, 12.0, "photographs, best answers"),
)


def known(name: str) -> KnownModel | None:
    """The table's row of that name, in any case."""
    return next((row for row in KNOWN if row.name.lower() == name.lower()), None)


def resolve(name: str | Path) -> Path:
    """The folder of a model: a path, a bundled checkpoint, or what the hub's cache holds (downloaded if need be).

    Raises:
        CheckpointError: there is no such folder and no such model, or the hub cannot be reached.
    """
    folder, bundled = Path(name).expanduser(), BUNDLED / str(name)
    # a folder that happens to be called like a bundled checkpoint, as the project's own `tiny/`, is not meant
    if bundled.is_dir() and not (folder / "config.json").is_file():
        return bundled
    if folder.is_dir():
        return folder
    row = known(str(name))
    hub_id = row.hub_id if row else str(name)
    if hub_id is None or hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")):
        names = ", ".join([*bundled_names(), *(row.name for row in KNOWN)])
        raise CheckpointError(f"no model {str(name)!r}: give a folder, one of {names}, or a hub id like owner/name")
    return fetch_folder(hub_id)


def bundled_names() -> list[str]:
    """Names of the checkpoints that lie in the project."""
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "config.json").is_file()) if BUNDLED.is_dir() else []


def fetch_folder(hub_id: str) -> Path:
    """Download a model's folder, or find it in the cache; a broken download is resumed.

    Raises:
        CheckpointError: the hub does not know it, does not answer, or wants a login.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except Exception as error:
        raise _hub_error(hub_id, error) from None


def fetch_sam2() -> Path:
    """Download SAM 2.1-large, or find it in the cache.

    Raises:
        CheckpointError: as fetch_folder.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(SAM2_HUB_ID, SAM2_FILE))
    except Exception as error:
        raise _hub_error(SAM2_HUB_ID, error) from None


def _hub_error(hub_id: str, error: Exception) -> CheckpointError:
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        hint = "it needs a login: accept its terms on the hub, then `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        hint = "the hub has no such model: check the name"
    elif isinstance(error, LocalEntryNotFoundError):
        hint = (
            "the hub does not answer and the cache has no copy: check the network, or copy the folder and give its path"
        )
    else:
        hint = f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; run it again, it resumes"
    return CheckpointError(f"cannot download {hub_id}: {hint}")
