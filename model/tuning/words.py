"""Labels and captions: LoRA on the language model and the projectors learns what people say, and how.

The matrices are made and found again by the `peft` package. In every other row the answer is the base's, to a question
that nobody answers here, and what counts is how far its words' probabilities have moved from the base's own ("learning
without forgetting", arXiv 1606.09282): the answer alone would make a base sure that is not, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from model.adapter import WORDS, speaking
from model.language.prefix import NAME
from model.pam import PerceiveAnything
from model.tuning.learner import Learner
from model.tuning.lessons import CAPTIONS, LABELS, Example, Lessons
from model.tuning.shelf import Shelf
from model.values.sampling import Sampling
from model.values.task import Task, instruction

RANK = 8
SCALE = 2.0
"""What LoRA's product is multiplied by: its alpha is so many times its rank."""

_LAYERS = r"language\.model\.layers\.\d+\.self_attn\.[qkvo]_proj|vision\.mm_projector_(img|semT)\.[02]"
_BATCH = 8
_ROUNDS = 15
_REPEATED = 32
"""Regions whose answers of the base are repeated, and how often: every so manieth row."""
_REPEAT_EVERY = 2
_KEPT = 4.0
"""How much more a token counts that is to stay the base's."""
_MOST_TOKENS = 256


@dataclass(frozen=True, eq=False)
class _Row:
    """A question about an example, and its answer, as token ids."""

    example: Example
    question: tuple[int, ...]
    answer: tuple[int, ...]
    weight: float


def learn(
    pam: PerceiveAnything,
    lessons: Lessons,
    rehearsed: Sequence[Example],
    shelf: Shelf,
    seconds: float,
    file: Path,
    pause: Callable[[], None],
    say: Callable[[float], None],
) -> dict[str, torch.Tensor]:
    """Learn labels and captions, as the lessons want; the matrices by their names in an `Adapter`.

    The model stays what it was.
    """
    # seconds of importing that no click waits for
    from peft import LoraConfig, get_peft_model_state_dict
    from peft.tuners.lora import LoraModel

    rows = _rows(pam, lessons)
    repeated = _repeated(pam, lessons, rehearsed, shelf)
    chances = np.array([row.weight for row in rows])
    chances /= chances.sum()
    whole = speaking(pam.language, pam.vision)
    config = LoraConfig(r=RANK, lora_alpha=round(SCALE * RANK), target_modules=_LAYERS)
    torch.manual_seed(0)
    tuner = LoraModel(whole, config, "default")
    qwen = pam.language.model
    try:
        qwen.set_attn_implementation("sdpa")
        whole.train()
        parameters = {name: weight for name, weight in tuner.named_parameters() if weight.requires_grad}

        def loss(step: int) -> torch.Tensor:
            rng = np.random.default_rng([step, 2])
            taken = [rows[i] for i in rng.choice(len(rows), _BATCH, p=chances)]
            kinds = [int(kind) for kind in rng.integers(0, 2, _BATCH)]
            if not repeated:
                return _loss(_logits(pam, shelf, taken, kinds))
            again = [repeated[i] for i in rng.integers(len(repeated), size=_BATCH // _REPEAT_EVERY)]
            count = len(again)
            with torch.no_grad():
                tuner.disable_adapter_layers()
                base = _logits(pam, shelf, again, kinds[:count])
                tuner.enable_adapter_layers()
            return _loss(
                _logits(pam, shelf, taken[count:], kinds[count:]), _logits(pam, shelf, again, kinds[:count]), base
            )

        learner = Learner(parameters, _rate(qwen.config.hidden_size), seconds, -(-_ROUNDS * len(rows) // _BATCH), file)
        with torch.enable_grad():
            learner.run(loss, pause, say)
        found = get_peft_model_state_dict(tuner)
        return {
            WORDS + name.removeprefix("base_model.").removeprefix("model."): t.detach().cpu().half()
            for name, t in found.items()
        }
    finally:
        tuner.unload()
        qwen.set_attn_implementation(NAME)
        whole.eval().requires_grad_(False)


def _rate(hidden: int) -> float:
    """The peak of the learning rate: 2e-4 for PAM-3B's width, more for a narrow model, which has less to lose."""
    return min(3e-3, 0.4 / hidden)


def _rows(pam: PerceiveAnything, lessons: Lessons) -> list[_Row]:
    rows = []
    for example in lessons.train:
        if LABELS in lessons.kinds and example.label is not None and example.choices is not None:
            name = example.choices.names[example.label][0]
            rows.append(_row(pam, example, instruction(Task.RECOGNIZE, example.choices.language), name))
        if CAPTIONS in lessons.kinds:
            rows += [_row(pam, example, instruction(*asked), text) for asked, text in example.texts.items()]
    return rows


def _row(pam: PerceiveAnything, example: Example, question: str, answer: str) -> _Row:
    language = pam.language
    ids = language.tokenizer(answer, add_special_tokens=False)["input_ids"][:_MOST_TOKENS]
    return _Row(example, tuple(language.prompt_ids(question)[1]), (*ids, *language.end_ids()[:1]), example.weight)


def _repeated(pam: PerceiveAnything, lessons: Lessons, rehearsed: Sequence[Example], shelf: Shelf) -> list[_Row]:
    """What the base says to questions that people have not answered here, about some regions; and of others' class."""
    languages = sorted({language for _, language in lessons.taught()}) or ["en"]
    asked = [(task, language) for language in languages for task in Task if (task, language) not in lessons.taught()]
    rows = []
    step = max(1, len(lessons.train) // _REPEATED)
    for example in [*lessons.train[::step][:_REPEATED], *rehearsed]:
        (region,) = pam.segment(shelf.embedding(example.picture), example.prompts()[:1])
        reading = pam.read([region])
        named = [(Task.RECOGNIZE, language) for language in languages] if example in rehearsed else []
        for task, language in dict.fromkeys([*asked, *named]):
            (said,) = pam.describe(reading, [task], language, Sampling(max_new_tokens=_MOST_TOKENS))
            rows.append(_row(pam, example, instruction(task, language), said[task].string))
    return rows


def _logits(
    pam: PerceiveAnything, shelf: Shelf, rows: Sequence[_Row], kinds: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (N, vocabulary) float32 of the answers' tokens, each answer behind its own prompt, and the tokens (N,)."""
    vision, qwen = pam.vision, pam.language.model
    seen = [
        shelf.told(row.example, kind if row.example.mask is not None else 0)
        for row, kind in zip(rows, kinds, strict=True)
    ]
    block = vision.block(torch.stack([image for image, _ in seen]), torch.stack([tokens for _, tokens in seen]))
    device = block.device
    before = torch.tensor(pam.language.prompt_ids("")[0], device=device)
    longest = max(len(row.question) + len(row.answer) for row in rows)
    # padded on the right, which nothing before it sees
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    targets = torch.full((len(rows), longest), -100, dtype=torch.int64)
    for place, row in enumerate(rows):
        end = len(row.question) + len(row.answer)
        ids[place, :end] = torch.tensor((*row.question, *row.answer))
        targets[place, len(row.question) - 1 : end - 1] = torch.tensor(row.answer)
    table: nn.Module = qwen.get_input_embeddings()
    head = table(before).expand(len(rows), -1, -1)
    vectors = torch.cat([head, block.to(head.dtype), table(ids.to(device))], dim=1)
    out = qwen.model(inputs_embeds=vectors, use_cache=False).last_hidden_state[:, -longest:]
    known = targets != -100
    return qwen.lm_head(out[known.to(device)]).float(), targets[known].to(device)


def _loss(
    taught: tuple[torch.Tensor, torch.Tensor],
    again: tuple[torch.Tensor, torch.Tensor] | None = None,
    base: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Mean over all tokens: cross-entropy of those that are taught, divergence from the base of those repeated."""
    logits, tokens = taught
    total, count = functional.cross_entropy(logits, tokens, reduction="sum"), len(tokens)
    if again is not None and base is not None:
        before, now = (part[0].log_softmax(-1) for part in (base, again))
        total = total + _KEPT * functional.kl_div(now, before, reduction="sum", log_target=True)
        count += len(again[1])
    return total / count
