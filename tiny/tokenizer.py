"""The small checkpoint's own tokenizer: byte-level BPE with Qwen2's rules, learned from all texts of the scenes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from model.values.task import LANGUAGES, Task, instruction
from tiny.art import kinds
from tiny.looks import COLOURS, PLACES, SIZES, UNKNOWN
from tiny.texts import Neighbour, Truth, kind_of, write

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SPLIT = (  # Qwen2's
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus() -> Iterator[str]:
    """The words of every sentence, cut where one may be exchanged for another, so that no entry joins two of them."""
    yield from _prompts() * 400
    tables = [f"{word}的" for table in (COLOURS, PLACES, SIZES) for word in table.values()]
    joints = ["，旁边是", "，旁边没有别的东西。", "，一部分被", "遮住", "，它在", "前面", "。", "："]
    for name in (UNKNOWN, *kinds()):
        row = kind_of(name)
        yield from [row.zh, f"一{row.measure}"] * 400
        yield from [row.does_zh] * 60
        near = (
            None,
            *(
                Neighbour(relation, name, colour)
                for relation, colour in product(("beside", "covered", "front"), COLOURS)
            ),
        )
        for number, (other, place) in enumerate(product(near, PLACES)):
            truth = Truth(name, list(COLOURS)[number % len(COLOURS)], place, list(SIZES)[number % 3], other)
            yield from (write(task.value, truth) for task in Task)
        yield from [*tables, *joints] * 10


def _prompts() -> list[str]:
    return [
        f"system\nYou are a helpful assistant.\nuser\n{instruction(task, language)}\nassistant\n"
        for task, language in product(Task, LANGUAGES)
    ]


def learn(folder: Path, size: int) -> None:
    """Learn `size` entries (256 bytes included, special ones not); write Qwen2's five tokenizer files to `folder`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    rows = {
        str(i): {
            "content": t,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": True,
        }
        for t, i in ids.items()
    }
    settings = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": rows,
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[2],
        "errors": "replace",
        "model_max_length": 12288,
        "pad_token": SPECIAL[0],
        "padding_side": "right",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _json(folder / "tokenizer_config.json", settings)
    _json(
        folder / "special_tokens_map.json",
        {"additional_special_tokens": list(SPECIAL[1:]), "eos_token": SPECIAL[2], "pad_token": SPECIAL[0]},
    )


def _json(file: Path, value: object) -> None:
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
