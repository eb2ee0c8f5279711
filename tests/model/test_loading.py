"""What is published loads as published; what is broken says which file, and the fix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.weights import VOCABULARY, write_tokenizer
from model import CheckpointError, DeviceError, PerceiveAnything, Prompt, Sampling, Task
from model.loading import hub
from tests.checkpoints import shard
from tests.device import DEVICE

PROMPT = Prompt(box=(100, 50, 400, 300))


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(small_checkpoint, tmp_path / "copy"))


def load(folder: Path, **options: object) -> PerceiveAnything:
    return PerceiveAnything.from_pretrained(folder, device=DEVICE, dtype="float32", **options)  # type: ignore[arg-type]


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def say(pam: PerceiveAnything, image: Image.Image) -> tuple[int, ...]:
    return (
        pam.perceive(image, [PROMPT], [Task.BRIEF], sampling=Sampling(max_new_tokens=6)).texts[0][Task.BRIEF].token_ids
    )


def test_shards_load_like_one_file(folder: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    shard(folder)
    assert say(load(folder), coffee) == say(pam, coffee)


def test_a_nested_folder_is_the_model(folder: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    """As the published repositories are, and so their clones and downloads."""
    outer = folder.parent / "PAM-3B"
    outer.mkdir()
    folder.rename(outer / "inner")
    for name in ("sam2.safetensors", "sam2.yaml"):
        (outer / "inner" / name).rename(outer / name)
    (outer / ".git").mkdir()
    for given in (outer, outer / "inner"):
        assert say(load(given), coffee) == say(pam, coffee)
    assert load(outer).version.startswith("PAM-3B@")
    shutil.copytree(outer / "inner", outer / "other")
    with pytest.raises(CheckpointError, match=r"holds 2 models: give one of .*inner, .*other"):
        load(outer)


def test_a_folder_without_a_model_is_not_meant(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project itself has a folder `tiny` beside the bundled checkpoint of that name."""
    (tmp_path / "here" / "tiny" / "pictures").mkdir(parents=True)
    (tmp_path / "here" / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert hub.resolve("tiny").folder == hub.BUNDLED / "tiny"
    # it has the form of a hub id, but a folder is what was typed: the hub is not asked
    with pytest.raises(CheckpointError, match="owner/name holds no model"):
        hub.resolve("owner/name")
    shutil.copytree(folder, tmp_path / "here" / "tiny" / "mine")
    assert hub.resolve("tiny").folder == Path("tiny/mine")


def test_commits_are_of_the_hub(folder: Path) -> None:
    commit = "0123456789" * 4
    for name in ("tiny", str(folder)):
        with pytest.raises(CheckpointError, match="keeps no commits of it: give it without @0123"):
            hub.resolve(f"{name}@{commit}")
    with pytest.raises(CheckpointError, match="after @ stand the 40 hexadecimal digits"):
        hub.resolve("PAM-3B@main")


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


def add_copies(folder: Path, change: float = 0.0) -> None:
    """What the released folders hold beside the model: SAM 2 in bfloat16, and the tied head."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in load_file(folder / "sam2.safetensors").items():
        tensors[f"model.vision_tower.sam2_model_predictor.{name}"] = (tensor.float() + change).bfloat16()
    tensors["lm_head.weight"] = torch.zeros_like(tensors["model.embed_tokens.weight"])
    save_file(tensors, folder / "model.safetensors")


def test_copies_in_the_folder_are_not_read(
    folder: Path, pam: PerceiveAnything, coffee: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    add_copies(folder)
    assert say(load(folder), coffee) == say(pam, coffee)
    assert caplog.messages == []


def test_another_sam2_in_the_folder_is_said_and_can_be_taken(
    folder: Path, pam: PerceiveAnything, caplog: pytest.LogCaptureFixture
) -> None:
    add_copies(folder, change=0.25)
    loaded = load(folder)
    (said,) = caplog.messages
    assert f"is another one than {folder / 'sam2.safetensors'}, which is used" in said
    assert "6 of 6 tensors" in said and f"--sam2 {folder}" in said
    name = "no_mem_embed"
    here = pam.tower.sam.state_dict()[name]
    assert torch.equal(loaded.tower.sam.state_dict()[name], here)
    caplog.clear()
    taken = load(folder, sam2_checkpoint=folder)
    assert torch.equal(taken.tower.sam.state_dict()[name], (here + 0.25).bfloat16().float())
    assert caplog.messages == [] and taken.version != loaded.version
    with pytest.raises(CheckpointError, match="holds no copy of SAM 2"):
        load(folder, sam2_checkpoint=hub.BUNDLED / "tiny")


def test_tensors_beyond_ours_are_named_once(
    folder: Path, pam: PerceiveAnything, coffee: Image.Image, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = load_file(folder / "model.safetensors")
    more = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.mask_extractor.weight", "vision_resampler.spare")
    save_file(tensors | {name: torch.zeros(2) for name in more}, folder / "model.safetensors")
    assert say(load(folder), coffee) == say(pam, coffee)
    (said,) = caplog.messages
    assert all(name in said for name in more)


def test_a_head_that_is_nowhere_is_the_table(folder: Path, pam: PerceiveAnything, coffee: Image.Image) -> None:
    """transformers takes a model that says nothing of tying for one with a head of its own."""
    path = folder / "config.json"
    settings = json.loads(path.read_text())
    settings.pop("tie_word_embeddings")
    path.write_text(json.dumps(settings))
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


@pytest.mark.parametrize("name", ["model.safetensors", "sam2.safetensors", "sam2.pt"])
@pytest.mark.parametrize("length", [100_000, -1000])
def test_truncated_weights(folder: Path, name: str, length: int) -> None:
    path = folder / name
    if name == "sam2.pt":
        torch.save({"model": load_file(folder / "sam2.safetensors")}, path)
        (folder / "sam2.safetensors").unlink()
    path.write_bytes(path.read_bytes()[:length])
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
        PerceiveAnything.from_pretrained(folder, device=DEVICE, dtype="int4")


def test_the_tokenizer_of_released_shapes_is_qwens(folder: Path) -> None:
    """Other ids would not be an error later, but odd words."""
    write_tokenizer(folder, VOCABULARY)
    change_config(folder, hidden_size=2048, vocab_size=151_936)
    with pytest.raises(CheckpointError, match="does not fit: it has another shape for"):
        load(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace("<|im_start|>", "<|im_begin|>"))
    with pytest.raises(CheckpointError, match=r"has \S+ for <\|im_start\|>, where Qwen's has 151644"):
        load(folder)
