"""What goes wrong between this machine and the Hugging Face hub, each with what to do about it."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from model.errors import CheckpointError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)


def cannot_download(hub_id: str, commit: str | None, error: Exception, wanted: str | list[str]) -> CheckpointError:
    """The error to raise for one of the hub's client.

    Args:
        hub_id: the repository.
        commit: that was asked for, or None.
        error: what the client raised.
        wanted: of the repository: a file, or patterns of files.
    """
    name = f"{hub_id}@{commit}" if commit else hub_id
    return CheckpointError(f"cannot download {name}: {_hint(hub_id, commit, error, wanted)}")


def incomplete(hub_id: str, folder: Path, missing: list[str]) -> CheckpointError:
    """The error for a copy in the cache that lacks files."""
    from huggingface_hub import constants

    what = f"the cache has only a part of {hub_id}, {folder} lacks {_first(missing)}"
    if constants.is_offline_mode():
        return CheckpointError(f"{what}; HF_HUB_OFFLINE is set: unset it and fetch again, or copy these files there")
    return CheckpointError(f"{what}: run `python -m model fetch {hub_id}` with a network, or copy these files there")


def by_hand(hub_id: str) -> str:
    """How to do without the hub."""
    from huggingface_hub import constants

    own = f"models--{hub_id.replace('/', '--')}"
    return (
        f"fetch it on another machine and copy {own} from its cache into {constants.HF_HUB_CACHE}, "
        f"or save the files of {constants.ENDPOINT}/{hub_id} in a folder and give that"
    )


def _hint(hub_id: str, commit: str | None, error: Exception, wanted: str | list[str]) -> str:
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    causes = list(_causes(error))
    numbers = {cause.errno for cause in causes if isinstance(cause, OSError)}
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0]
    if isinstance(error, hub.GatedRepoError):
        return "it needs a login: accept its terms on the hub, then `hf auth login`"
    if isinstance(error, hub.RepositoryNotFoundError):
        return "the hub shows no such model: check the name; if it is private, `hf auth login` with a token for it"
    if isinstance(error, hub.RevisionNotFoundError):
        return f"the hub's {hub_id} has no commit {commit}: check its digits, or leave out @…"
    if isinstance(error, hub.IncompleteSnapshotError):
        there = Path(error.snapshot_path)
        return str(incomplete(hub_id, there, _lacking(hub_id, there, wanted) or [text]))
    if isinstance(error, hub.LocalEntryNotFoundError):
        have = _commits(hub_id)
        cached = f"the cache has {', '.join(have)} of it" if have else "the cache does not have it"
        if constants.is_offline_mode():
            return f"HF_HUB_OFFLINE is set, and {cached}: unset it, or {by_hand(hub_id)}"
        reason = str(causes[1] if len(causes) > 1 else error).splitlines()[0]
        return (
            f"the hub does not answer ({constants.ENDPOINT}: {reason}), and {cached}: check the network and its proxy, "
            f"set HF_ENDPOINT to a mirror, or {by_hand(hub_id)}"
        )
    if isinstance(error, hub.EntryNotFoundError):
        return f"the hub's {hub_id} has no file {wanted}"
    if isinstance(error, hub.HfHubHTTPError):
        return f"the hub answers {error.response.status_code}: {first}; try again later"
    if numbers & set(_NO_ROOM) or "os error 28" in text or "No space left" in text:
        free = shutil.disk_usage(_there(Path(constants.HF_HUB_CACHE))).free / 1e9
        return (
            f"no room: {constants.HF_HUB_CACHE} has {free:.1f} GB left ({first}); make room, or set HF_HOME to a "
            "larger disk. Files that are complete are kept"
        )
    if numbers & set(_NO_WRITING):
        return f"{constants.HF_HUB_CACHE} cannot be written ({first}): set HF_HOME to a folder that can, or mount it so"
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy of the environment (HTTPS_PROXY) refuses: {first}"
    if isinstance(error, httpx2.TransportError) or type(error) is RuntimeError:
        # the hub itself had answered, or its client would have said so: what fails is the bytes' own server
        return (
            f"the hub answers, but its data servers do not ({first}): set HF_HUB_DISABLE_XET=1 to go past the newer of "
            f"them, or HF_ENDPOINT to a mirror, or {by_hand(hub_id)}. Files that are complete are kept, a broken one "
            "begins anew"
        )
    return f"{first}; run it again: files that are complete are kept"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _lacking(hub_id: str, snapshot: Path, wanted: str | list[str]) -> list[str]:
    """Files of a snapshot that its listing names and the cache lacks."""
    from huggingface_hub import errors, get_cached_repo_tree
    from huggingface_hub.utils._paths import filter_repo_objects

    try:
        listed = [file.path for file in get_cached_repo_tree(hub_id, revision=snapshot.name)]
    except errors.CachedRepoTreeNotFoundError:
        return []
    return [path for path in filter_repo_objects(listed, allow_patterns=wanted) if not (snapshot / path).is_file()]


def _commits(hub_id: str) -> list[str]:
    """Of which the cache has something."""
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    if not snapshots.is_dir():
        return []
    # a download that broke leaves its folder, with nothing in it
    return sorted(path.name for path in snapshots.iterdir() if any(not file.is_dir() for file in path.rglob("*")))


def _first(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _there(path: Path) -> Path:
    """The nearest folder above that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
