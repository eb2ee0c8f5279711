"""What the hub's own client leaves on the disk, and what it says when it cannot: the hub is a stand-in on loopback."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file

from model import PerceiveAnything, Prompt, Task
from model.__main__ import main
from model.loading import hub as ours
from tests.checkpoints import shard
from tests.device import DEVICE
from tests.hub import COMMIT, NOWHERE, PAM, SAM2, Hub, nested, run_hub, write_cache

TINY = ours.BUNDLED / "tiny"
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that every user of the machine may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def published() -> Iterator[dict[str, dict[str, Path]]]:
    """Both repositories: `tiny` in shards under PAM-3B's name, with a pickle beside; its SAM 2 as Meta's file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        model = Path(shutil.copytree(TINY, folder / "model"))
        shard(model)
        torch.save({"never": "asked for"}, model / "training_args.bin")
        torch.save({"model": load_file(TINY / "sam2.safetensors")}, folder / "sam2.1_hiera_large.pt")
        yield {PAM: nested(model), SAM2: {"sam2.1_hiera_large.pt": folder / "sam2.1_hiera_large.pt"}}


@pytest.fixture
def hub(published: dict[str, dict[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has both, and an empty cache."""
    # its client waits for seconds between tries
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    for name, value in {"RETRY_MAX_ATTEMPTS": "1", "RETRY_MAX_DURATION": "1s", "RETRY_BASE_DELAY": "10ms"}.items():
        monkeypatch.setenv(f"HF_XET_CLIENT_{name}", value)
    with run_hub({name: dict(files) for name, files in published.items()}) as running:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
        point_to(running.url, monkeypatch)
        yield running


def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does, which the client reads when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_HUB_OFFLINE=1 does."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def fetch(capsys: pytest.CaptureFixture[str], name: str = "PAM-3B") -> tuple[int, str, str]:
    """`python -m model fetch`: its exit code, what it printed, and its last line of complaint."""
    code = main(["fetch", name])
    captured = capsys.readouterr()
    complaint = [line for line in captured.err.splitlines() if line.startswith("CheckpointError: ")]
    return code, captured.out, complaint[-1] if complaint else ""


def storage(repository: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def give_config() -> None:
    """Tiny's SAM 2 is smaller than the file's name says."""
    shutil.copy(TINY / "sam2.yaml", storage(SAM2) / "snapshots" / COMMIT[SAM2] / "sam2.yaml")


@pytest.fixture
def fetched(hub: Hub) -> Hub:
    """Both are in the cache, as the client put them there."""
    ours.resolve("PAM-3B")
    ours.fetch_sam2()
    give_config()
    hub.asked.clear()
    return hub


def downloads(hub: Hub) -> list[str]:
    return [line.rsplit("/", 1)[1] for line in hub.asked if line.startswith("GET") and "/resolve/" in line]


def test_fetch_downloads_what_is_needed_and_says_where_it_lies(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, complaint = fetch(capsys)
    # all is there but that SAM 2 is not of the size its name promises: it would not load, so this is no success
    assert code == 1 and "sam2.1_hiera_large.pt does not fit" in complaint and "It can be loaded" not in out
    assert "training_args.bin" not in downloads(hub) and "sam2.1_hiera_large.pt" in downloads(hub)
    give_config()
    hub.asked.clear()
    code, out, complaint = fetch(capsys)
    snapshot = storage(PAM) / "snapshots" / COMMIT[PAM]
    assert (code, complaint, downloads(hub)) == (0, "", [])
    assert f"model:   {snapshot / 'PAM-3B'}\n" in out and f"PAM-3B@{COMMIT[PAM]} pins it" in out
    assert "on disk: 0.03 GB" in out and "8.2 GB" in out and "python -m model try PAM-3B" in out


def test_a_whole_cache_is_enough_without_a_network(
    fetched: Hub, monkeypatch: pytest.MonkeyPatch, coffee: Image.Image
) -> None:
    offline(monkeypatch)
    tiny, cached = (PerceiveAnything.from_pretrained(name, device=DEVICE) for name in ("tiny", "pam-3b"))
    said = [pam.perceive(coffee, [Prompt(box=(170, 10, 410, 310))], [Task.BRIEF]).texts for pam in (tiny, cached)]
    assert said[0] == said[1]
    assert cached.version.startswith("PAM-3B@") and fetched.asked == []


def test_a_hub_that_is_away_does_not_matter_where_the_cache_is_whole(
    fetched: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_to(NOWHERE, monkeypatch)
    assert ours.resolve("PAM-3B").commit == COMMIT[PAM] and ours.fetch_sam2().is_file()


def test_a_commit_can_be_pinned(
    fetched: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned, other = f"PAM-3B@{COMMIT[PAM]}", f"PAM-3B@{'f' * 40}"
    code, out, _ = fetch(capsys, pinned)
    assert code == 0 and COMMIT[PAM] in out and downloads(fetched) == []
    pam = PerceiveAnything.from_pretrained(pinned, device=DEVICE)
    assert pam.version.startswith(f"{pinned}-") and pam.version.split("-")[-1] == ours_fingerprint("PAM-3B")
    assert fetch(capsys, other)[2].endswith(f"{PAM} has no commit {'f' * 40}: check its digits, or leave out @…")
    offline(monkeypatch)
    assert ours.resolve(pinned).folder.name == "PAM-3B"
    assert f"the cache has {COMMIT[PAM]} of it" in fetch(capsys, other)[2]


def ours_fingerprint(name: str) -> str:
    return PerceiveAnything.from_pretrained(name, device=DEVICE).version.split("@")[1]


def test_a_broken_download_keeps_its_finished_files(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.breaks = {f"PAM-3B/{SHARD}"}
    code, _, complaint = fetch(capsys)
    assert code == 1 and "Files that are complete are kept, a broken one begins anew" in complaint
    with monkeypatch.context() as inner:
        offline(inner)
        complaint = fetch(capsys)[2]
        assert f"lacks PAM-3B/{SHARD}; HF_HUB_OFFLINE is set" in complaint
    hub.breaks.clear()
    hub.asked.clear()
    ours.resolve("PAM-3B")
    assert downloads(hub) == [SHARD]


def test_a_broken_download_of_sam2_leaves_nothing_that_looks_whole(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.breaks = {"sam2.1_hiera_large.pt"}
    code, _, complaint = fetch(capsys)
    assert code == 1 and f"cannot download {SAM2}" in complaint and "a broken one begins anew" in complaint
    with monkeypatch.context() as inner:
        offline(inner)
        assert f"cannot download {SAM2}: HF_HUB_OFFLINE is set, and the cache does not have it" in fetch(capsys)[2]
    hub.breaks.clear()
    hub.asked.clear()
    assert ours.fetch_sam2().is_file() and downloads(hub) == ["sam2.1_hiera_large.pt"]


@pytest.mark.parametrize("gone", [SHARD, "config.json", "tokenizer.json"])
def test_a_copied_cache_with_holes_names_them(
    hub: Hub, gone: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the client's own listing, as an older client leaves it, or somebody who copies file by file."""
    files = {path: file for path, file in hub.files[PAM].items() if not path.endswith((gone, "vocab.json"))}
    inner = write_cache(Path(constants.HF_HUB_CACHE).parent, PAM, files) / "PAM-3B"
    offline(monkeypatch)
    code, _, complaint = fetch(capsys)
    where = inner.parent if gone == "config.json" else inner
    assert code == 1 and f"{where} lacks {gone}; HF_HUB_OFFLINE is set" in complaint


def test_an_empty_cache_without_a_network(
    hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as inner:
        point_to(NOWHERE, inner)
        complaint = fetch(capsys)[2]
        assert f"the hub does not answer ({NOWHERE}: " in complaint and "HF_ENDPOINT to a mirror" in complaint
    ours.resolve("PAM-3B")
    offline(monkeypatch)
    for name, repository in ((PAM.replace("3B", "1.5B"), None), ("PAM-3B", SAM2)):
        complaint = fetch(capsys, name)[2]
        assert (
            f"cannot download {repository or name}: HF_HUB_OFFLINE is set, and the cache does not have it" in complaint
        )
        assert f"copy models--{(repository or name).replace('/', '--')} from its cache" in complaint


def test_private_gated_and_failing_hubs(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for refusal, says in {
        (403, "GatedRepo"): "accept its terms on the hub, then `hf auth login`",
        (401, "RepoNotFound"): "check the name; if it is private, `hf auth login`",
        (503, ""): "the hub does not answer",
    }.items():
        hub.refuses = {PAM: refusal}
        code, _, complaint = fetch(capsys)
        assert code == 1 and says in complaint
    hub.refuses = {}
    hub.files[SAM2] = {}
    assert "the hub's facebook/sam2.1-hiera-large has no file sam2.1_hiera_large.pt" in fetch(capsys)[2]


@pytest.mark.parametrize("way", ["redirect", "xet"])
def test_data_servers_that_are_blocked(hub: Hub, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    hub.elsewhere = way
    complaint = fetch(capsys)[2]
    assert "the hub answers, but its data servers do not" in complaint
    assert "HF_HUB_DISABLE_XET=1" in complaint and "HF_ENDPOINT" in complaint
    assert f"save the files of {hub.url}/{PAM} in a folder" in complaint


def test_a_full_disk(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # the nearest to a full disk that needs no rights: the system refuses to write on
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        code, _, complaint = fetch(capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1 and "no room: " in complaint and "GB left" in complaint and "HF_HOME" in complaint


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write below the folder while the block runs; root, who may everywhere, is nobody meanwhile."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)


def test_a_cache_that_cannot_be_written(
    fetched: Hub, open_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(constants.HF_HUB_CACHE, open_folder / "hub", symlinks=True))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    with read_only(cache):
        assert ours.resolve("PAM-3B").folder.is_dir() and ours.fetch_sam2().is_file()
        with monkeypatch.context() as inner:
            offline(inner)
            assert fetch(capsys)[0] == 0
    shard_there = storage(PAM) / "snapshots" / COMMIT[PAM] / "PAM-3B" / SHARD
    shard_there.resolve().unlink()
    shard_there.unlink()
    with read_only(cache):
        complaint = fetch(capsys)[2]
    assert f"{cache} cannot be written" in complaint and "HF_HOME" in complaint


def test_a_damaged_file_in_the_cache_has_to_go_first(fetched: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    link = storage(PAM) / "snapshots" / COMMIT[PAM] / "PAM-3B" / SHARD
    blob = link.resolve()
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-100])
    code, _, complaint = fetch(capsys)
    assert code == 1 and f"delete {link} and {blob}, which it links to, and fetch it again" in complaint
    link.unlink()
    blob.unlink()
    assert fetch(capsys)[0] == 0
