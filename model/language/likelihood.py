"""How likely each of many given answers is: the prompt is read once, all answers are read behind it at once.

The answers lie one after the other in a single sequence behind the cached prompt. A mask lets each see the prompt and
itself only, and each counts its positions from the end of the prompt, so that each is read as if it stood there alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from model.compute.precision import full_float32
from model.language.grid import Grid
from model.language.prefix import Prefix
from model.language.qwen import Language

TOKENS_PER_CHUNK = 512
"""Answer tokens that go through the language model together; bounds attention and logits (300 MB a region with Qwen2's
vocabulary in float32). A longer answer goes alone."""


def answer_ids(language: Language, answers: Sequence[str]) -> list[list[int]]:
    """The token ids of answers as the model would generate them, the end token not among them.

    Raises:
        ValueError: there are no answers, or one has no tokens.
    """
    if isinstance(answers, str) or not answers:
        raise ValueError("no candidates: give a sequence of at least one string")
    ids = [list(language.tokenizer(answer, add_special_tokens=False)["input_ids"]) for answer in answers]
    for answer, tokens in zip(answers, ids, strict=True):
        if not tokens:
            raise ValueError(f"the candidate {answer!r} has no tokens: give a word")
    return ids


@torch.no_grad()
@full_float32
def log_likelihoods(
    language: Language,
    prefix: Prefix,
    question: Sequence[int],
    answers: Sequence[Sequence[int]],
    per_chunk: int = TOKENS_PER_CHUNK,
    ended: bool = True,
) -> torch.Tensor:
    """Natural-log likelihood of each answer, its end token counted unless it need not end there, behind each prompt.

    Args:
        language: the language model.
        prefix: of R regions.
        question: token ids that follow the prefix.
        answers: N lists of at least one token id each.
        per_chunk: tokens that are read together.
        ended: False takes the answers for beginnings of answers.

    Returns:
        (R, N) float32, on the model's device.

    Raises:
        ValueError: the checkpoint names no end token.
    """
    ends = language.end_ids()
    if not ends:
        raise ValueError("the checkpoint names no end token (eos_token_id): the end of an answer cannot be scored")
    device, regions = prefix.device, prefix.regions
    longest = max(per_chunk, *(len(answer) for answer in answers))
    grid = Grid(language.model, prefix, [question], longest)
    first = torch.tensor([answer[0] for answer in answers], device=device)
    scores = grid.logits().log_softmax(dim=-1)[:, first]
    for numbers in _chunks([len(answer) for answer in answers], per_chunk):
        chunk = [answers[number] for number in numbers]
        ids = torch.tensor([token for answer in chunk for token in answer], device=device)
        # each token foretells the next one of its answer, the last one the end
        targets = torch.tensor([token for answer in chunk for token in (*answer[1:], ends[0])], device=device)
        counted = torch.tensor([ended or i + 1 < len(answer) for answer in chunk for i in range(len(answer))])
        owner = torch.tensor([i for i, answer in enumerate(chunk) for _ in answer], device=device)
        place = torch.tensor([i for answer in chunk for i in range(len(answer))], device=device)
        order = torch.arange(len(ids), device=device)
        # each sees its own answer's tokens up to itself
        seen = (owner[:, None] == owner[None, :]) & (order[:, None] >= order[None, :])
        hidden = grid.read(ids, seen, place)
        for row in range(regions):  # one after the other: logits of all rows together would be large
            logits = language.model.lm_head(hidden[row]).float()
            each = (logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(dim=-1)) * counted.to(device)
            scores[row, list(numbers)] += each.new_zeros(len(chunk)).index_add_(0, owner, each)
    return scores


def _chunks(lengths: Sequence[int], limit: int) -> Iterator[range]:
    """Consecutive numbers whose lengths sum to at most the limit, or single ones."""
    start, held = 0, 0
    for number, length in enumerate(lengths):
        if held and held + length > limit:
            yield range(start, number)
            start, held = number, 0
        held += length
    yield range(start, len(lengths))
