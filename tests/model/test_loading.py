"""What is published loads as published; what is broken says which file, and the fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from model import CheckpointError, DeviceError, PerceiveAnything, Prompt, Sampling, Task
from model.loading import hub

PROMPT = Prompt(box=(100, 50, 400, 300))


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small_checkpoint, tmp_path / "copy"))


def load(folder: Path, **options: object) -> PerceiveAnything:
    return PerceiveAnything.from_pretrained(folder, device="cpu", **options)  # type: ignore[arg-type]


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def say(pam: PerceiveAnything, image: Image.Image) -> tuple[int, ...]:
    return (
        pam.perceive(image, [PROMPT], [Task.BRIEF], sampling=Sampling(max_new_tokens=6)).texts[0][Task.BRIEF].token_ids
    )


def shard(folder: Path) -> None:
    """Split model.safetensors into two shards with an index, as the hub does with large models."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    table: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        table |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": table}))
    (folder / "model.safetensors").unlink()


def test_shards_load_like_one_file(folder: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    shard(folder)
    assert say(load(folder), coffee) == say(pam, coffee)


def test_a_torch_bin_loads_too(folder: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert say(load(folder), coffee) == say(pam, coffee)


def test_sam2_may_lie_elsewhere(folder: Path, tmp_path: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    weights, config = tmp_path / "weights.pt", tmp_path / "any.yaml"
    torch.save({"model": load_file(folder / "sam2.safetensors")}, weights)
    (folder / "sam2.yaml").rename(config)
    (folder / "sam2.safetensors").unlink()
    given = load(folder, sam2_checkpoint=weights, sam2_config=config)
    assert say(given, coffee) == say(pam, coffee)
    # the only .yaml beside the weights needs no naming
    assert say(load(folder, sam2_checkpoint=weights), coffee) == say(pam, coffee)


def test_copies_of_sam2_in_the_folder_are_ignored(folder: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.vision_tower.sam2_model_predictor.no_mem_embed"] = torch.zeros(1, 1, 256)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    assert say(load(folder), coffee) == say(pam, coffee)


def test_an_untied_head_is_used(folder: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].roll(1, dims=0)
    save_file(tensors, folder / "model.safetensors")
    change_config(folder, tie_word_embeddings=False)
    assert say(load(folder), coffee) != say(pam, coffee)


def test_padding_rows_are_cut_to_the_tokenizer(folder: Path, pam: PerceiveAnything) -> None:
    head = pam.language.model.get_output_embeddings().weight
    assert len(head) == len(pam.language.tokenizer) < json.loads((folder / "config.json").read_text())["vocab_size"]
    change_config(folder, mm_use_im_patch_token=True)
    longer = load(folder)
    assert len(longer.language.model.get_output_embeddings().weight) == len(head) + 1


def test_the_version_changes_with_the_weights_only(folder: Path, small_checkpoint: Path) -> None:
    first, again = load(folder).version, load(folder).version
    tensors = load_file(folder / "model.safetensors")
    tensors["model.image_newline"] += 1
    save_file(tensors, folder / "model.safetensors")
    assert first == again != load(folder).version


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "sam2.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / name).unlink()
    if name == "tokenizer.json":
        (folder / "vocab.json").unlink()
    monkeypatch.setattr(hub, "fetch_sam2", lambda: (_ for _ in ()).throw(CheckpointError("asked the hub for SAM 2")))
    expected = "asked the hub for SAM 2" if name.startswith("sam2") else name
    with pytest.raises(CheckpointError, match=expected):
        load(folder)


def test_a_half_downloaded_folder(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors.*fetch"):
        load(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "sam2.safetensors"])
def test_truncated_weights(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=f"{name} is truncated or damaged"):
        load(folder)


def test_a_git_lfs_pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="Git LFS pointer"):
        load(folder)


def test_missing_and_unexpected_tensors(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.surprise"] = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks model\.norm\.weight; it has unknown model\.surprise"):
        load(folder)


def test_a_sam2_config_that_does_not_fit(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam2\.safetensors does not fit.*sam2\.1_hiera_t\.yaml"):
        load(folder, sam2_config="sam2.1_hiera_t.yaml")


def test_a_sam2_config_can_build_nothing_else(folder: Path) -> None:
    config = folder / "sam2.yaml"
    config.write_text("model:\n  _target_: os.system\n  command: touch /tmp/never\n")
    with pytest.raises(CheckpointError, match=r"would build os\.system"):
        load(folder)


def test_a_pickle_with_code_is_not_loaded(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "sam2.pt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        load(folder, sam2_checkpoint=tmp_path / "sam2.pt", sam2_config=folder / "sam2.yaml")
    assert not (tmp_path / "ran").exists()


def test_another_model_is_refused(folder: Path) -> None:
    change_config(folder, mm_vision_tower="openai/clip")
    with pytest.raises(CheckpointError, match="not a PAM checkpoint"):
        load(folder)


def test_unknown_names_and_devices(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model 'what'.*PAM-3B"):
        hub.resolve("what")
    with pytest.raises(DeviceError, match="give auto"):
        PerceiveAnything.from_pretrained(folder, device="tpu")
    with pytest.raises(DeviceError, match="dtype"):
        PerceiveAnything.from_pretrained(folder, device="cpu", dtype="int4")


def test_the_hub_is_asked_and_its_folder_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, coffee: Image.Image
) -> None:
    asked: list[str] = []

    def download(hub_id: str, **_: object) -> str:
        asked.append(hub_id)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert say(load("PAM-3B"), coffee)  # type: ignore[arg-type]
    assert asked == ["Perceive-Anything/PAM-3B"]


def test_sam2_large_comes_from_the_hub_when_nothing_is_given(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sam2.safetensors").rename(folder / "other.safetensors")
    (folder / "sam2.yaml").unlink()
    asked: list[tuple[str, str]] = []
    wrong = folder / "sam2.1_hiera_large.pt"
    torch.save({"model": load_file(folder / "other.safetensors")}, folder.parent / wrong.name)

    def download(repo: str, file: str) -> str:
        asked.append((repo, file))
        return str(folder.parent / wrong.name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    # the large config is found by the file's name; our small weights cannot fit it, which is then said
    with pytest.raises(CheckpointError, match=r"sam2\.1_hiera_l\.yaml"):
        load(folder)
    assert asked == [("facebook/sam2.1-hiera-large", "sam2.1_hiera_large.pt")]


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(CheckpointError, match="hub does not answer"):
        hub.resolve("owner/name")
