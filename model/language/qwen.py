"""The language model: Qwen2 from `transformers`, its tokenizer, the prompt around the image block, and answers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
    RepetitionPenaltyLogitsProcessor,
)

from model.compute.precision import full_float32
from model.compute.turns import run_through
from model.language.buffers import Greedy
from model.language.decoder import Decoder
from model.language.grid import Choice, Drawn, Grid, draw
from model.language.opening import Opening
from model.language.prefix import NAME, SCORES_BYTES, Prefix
from model.language.resident import Resident
from model.language.unsure import LEAST_PROBABILITY, PreferUnsure, Unsure
from model.values.region import Text, Texts
from model.values.sampling import Sampling
from model.values.task import Task, VideoTask

_BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_AFTER = "\n{instruction}<|im_end|>\n<|im_start|>assistant\n"

_NUMBERS_A_LOGIT = 5
"""Float32 numbers for each word of the vocabulary while a token is chosen or scored: logits, what processors make of
them, and their exponentials."""


@dataclass(frozen=True)
class Answer:
    """One generated answer: see `model.values.region.Text` for the fields."""

    string: str
    token_ids: tuple[int, ...]
    mean_logprob: float
    finished: bool


class Language:
    """Qwen2 with its tokenizer and the settings of the checkpoint's folder.

    Args:
        model: the causal language model, on its device.
        tokenizer: its tokenizer.
        defaults: the folder's generation_config.json.
        max_vectors: longest prompt (config `tokenizer_model_max_length`); longer ones are cut on the right.
        unsure: what greedy answers say instead of a guess; None lets them guess.
    """

    def __init__(
        self,
        model: Qwen2ForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        defaults: GenerationConfig,
        max_vectors: int = 12288,
        unsure: Unsure | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.model.set_attn_implementation(NAME)
        self.tokenizer = tokenizer
        self.defaults = defaults
        self.max_vectors = max_vectors
        self.unsure = unsure
        self.opening = Opening(self.model)
        self.decoder: Decoder | None = None
        """The token step that stays, for GPUs; None reads token by token with `transformers`' own model."""

    def prompt_ids(self, instruction: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the image block; each side is tokenised on its own, as PAM does."""
        before = self.tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
        after = self.tokenizer(_AFTER.format(instruction=instruction), add_special_tokens=False)["input_ids"]
        return before, after

    @torch.no_grad()
    @full_float32
    def read(self, blocks: torch.Tensor) -> Prefix:
        """Read the beginning of R prompts once, system text and image block: blocks (R, K, hidden)."""
        before = torch.tensor(self.prompt_ids("")[0], device=blocks.device)
        vectors = self.model.get_input_embeddings()(before)
        vectors = vectors.expand(len(blocks), -1, -1)
        return self.opening.read(torch.cat([vectors, blocks.to(vectors.dtype)], dim=1)[:, : self.max_vectors])

    def bytes_to_read(self, tokens: int) -> int:
        """Memory that reading a prompt of so many tokens takes: what is kept of it, and the widest layer's numbers."""
        return self.kept_bytes(tokens) + self._width_bytes(tokens)

    def bytes_to_answer(self, instructions: Sequence[str], tokens: int) -> int:
        """Memory that one region takes while it is asked all that, `SCORES_BYTES` for all regions not counted."""
        questions = [len(self.prompt_ids(text)[1]) for text in instructions]
        asked = max(questions, default=0)
        row = self.kept_bytes(asked + tokens) + self._width_bytes(asked) + _NUMBERS_A_LOGIT * 4 * self._words
        return row * len(questions)

    def bytes_to_score(self, instruction: str, tokens: int) -> int:
        """Memory that one region takes while so many tokens of answers are scored, `bytes_of_scores` not counted."""
        asked = len(self.prompt_ids(instruction)[1])
        return self.kept_bytes(asked + tokens) + self._width_bytes(max(asked, tokens))

    def bytes_of_scores(self, tokens: int) -> int:
        """Memory of attention and logits while so many tokens of answers are scored, of however many regions."""
        return SCORES_BYTES + _NUMBERS_A_LOGIT * 4 * self._words * tokens

    def kept_bytes(self, tokens: int) -> int:
        """Keys and values of all layers."""
        config = self.model.config
        size = config.hidden_size // config.num_attention_heads
        return tokens * 2 * config.num_hidden_layers * config.num_key_value_heads * size * self.model.dtype.itemsize

    def _width_bytes(self, tokens: int) -> int:
        """What a layer makes of so many tokens on the way, attention's scores not counted."""
        config = self.model.config
        return tokens * (4 * config.intermediate_size + 8 * config.hidden_size) * self.model.dtype.itemsize

    @property
    def _words(self) -> int:
        return int(self.model.config.vocab_size)

    def question_ids(self, prefix: Prefix, instruction: str) -> list[int]:
        """What follows the image block in a prompt."""
        return self.prompt_ids(instruction)[1][: max(self.max_vectors - prefix.length, 1)]

    def answer(
        self, prefix: Prefix, instructions: Sequence[str], sampling: Sampling, limits: Sequence[int] | None = None
    ) -> list[list[Answer]]:
        """Answers of R regions to T instructions, by region; all rows are drawn together.

        `limits` are T numbers of tokens; None takes those of free instructions.
        """
        return run_through(self.answering(prefix, instructions, sampling, limits), self.advance)

    def answering(
        self, prefix: Prefix, instructions: Sequence[str], sampling: Sampling, limits: Sequence[int] | None = None
    ) -> Generator[None, None, list[list[Answer]]]:
        """As `answer`, but it yields where token steps have to be made for these rows and all others: `advance`."""
        questions = [self.question_ids(prefix, text) for text in instructions]
        most = [sampling.most(text) for text in instructions] if limits is None else list(limits)
        if not prefix.regions or not questions:
            return [[] for _ in range(prefix.regions)]
        drawn = yield from self._drawn(prefix, questions, sampling, most)
        each = iter([row for part in drawn for row in zip(part.ids.tolist(), part.logprobs.tolist(), strict=True)])
        rows = [[(n, *next(each)) for n in most] for _ in range(prefix.regions)]
        return [[self.finished(ids[:n], logprobs[:n]) for n, ids, logprobs in row] for row in rows]

    def advance(self) -> None:
        """A few token steps for all answers under way."""
        if self.decoder is not None:
            self.decoder.advance()

    def _drawn(
        self, prefix: Prefix, questions: Sequence[Sequence[int]], sampling: Sampling, limits: Sequence[int]
    ) -> Generator[None, None, list[Drawn]]:
        """The tokens of all rows, of some regions after the other."""
        ends, most = self.end_ids(), max(limits)
        decoder, at_once = self.decoder, 0
        if decoder is not None and decoder.resident.takes(ends, most):
            room = max(map(len, questions)) + most
            at_once = decoder.resident.regions_at_once(prefix.regions, len(questions), prefix.length, room)
        # chance goes through all rows in turn
        if decoder is None or not at_once or (sampling.temperature and at_once < prefix.regions):
            return [self._alone(prefix, questions, sampling, limits, None)]
        found = []
        for start in range(0, prefix.regions, at_once):
            part = prefix.part(start, min(start + at_once, prefix.regions))
            if sampling.temperature:
                found.append(self._alone(part, questions, sampling, limits, decoder))
            else:
                grid = self._grid(part, questions, 0)
                found.append((yield from decoder.drawing(grid, ends, limits, self._greedy(sampling))))
        return found

    @torch.no_grad()
    @full_float32
    def _grid(self, prefix: Prefix, questions: Sequence[Sequence[int]], room: int) -> Grid:
        return Grid(self.model, prefix, questions, room)

    @torch.no_grad()
    @full_float32
    def _alone(
        self,
        prefix: Prefix,
        questions: Sequence[Sequence[int]],
        sampling: Sampling,
        limits: Sequence[int],
        decoder: Decoder | None,
    ) -> Drawn:
        """Rows that are drawn to their end before anything else is."""
        choose, ends = self._choice(sampling), self.end_ids()
        with seeded(sampling, prefix.device):
            if decoder is None:
                return draw(self._grid(prefix, questions, max(limits)), choose, ends, limits)
            return decoder.by_chance(self._grid(prefix, questions, 0), choose, ends, limits)

    def _greedy(self, sampling: Sampling) -> Greedy:
        penalty = self._penalty(sampling)
        if self.unsure is None:
            return Greedy(penalty=penalty)
        return Greedy(self.unsure.threshold, self.unsure.first_ids, LEAST_PROBABILITY, penalty)

    def _penalty(self, sampling: Sampling) -> float:
        return float(sampling.repetition_penalty or self.defaults.repetition_penalty or 1.0)

    def stay(
        self,
        lengths: Sequence[int],
        regions: int = 64,
        compiled: bool = True,
        backend: str = "inductor",
        opening: int | None = None,
    ) -> None:
        """Keep the token step resident from now on: see `Resident`; the usual buckets are tried at once.

        On CUDA reading one prompt of `opening` vectors is captured too.
        """
        resident = Resident(self.model, lengths, regions, compiled=compiled, backend=backend)
        resident.warm()
        self.decoder = Decoder(resident)
        if opening is not None and self.model.device.type == "cuda":
            self.opening.capture(opening)

    def texts(
        self, prefix: Prefix, asked: Mapping[Task | VideoTask | str, str], language: str, sampling: Sampling
    ) -> list[Texts]:
        """The texts of R regions by task, in the order asked; `asked` has the instruction of each task."""
        return run_through(self.telling(prefix, asked, language, sampling), self.advance)

    def telling(
        self, prefix: Prefix, asked: Mapping[Task | VideoTask | str, str], language: str, sampling: Sampling
    ) -> Generator[None, None, list[Texts]]:
        """As `texts`, but yielding as `answering` does."""
        limits = [sampling.most(task) for task in asked]
        answers = yield from self.answering(prefix, list(asked.values()), sampling, limits)
        return [
            {
                task: Text(task, language, a.string, a.token_ids, a.mean_logprob, a.finished)
                for task, a in zip(asked, row, strict=True)
            }
            for row in answers
        ]

    def _choice(self, sampling: Sampling) -> Choice:
        processors = self.processors(sampling)
        # the authors leave the folder's top_k in force
        return Choice(processors, sampling.temperature, self.defaults.top_k or 0)

    def processors(self, sampling: Sampling) -> LogitsProcessorList:
        """What changes the logits before a token is chosen from them."""
        penalty = self._penalty(sampling)
        processors = LogitsProcessorList()
        if self.unsure is not None and sampling.temperature == 0:
            processors.append(PreferUnsure(self.unsure))
        if penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        return processors

    def end_ids(self) -> list[int]:
        """The ids that end an answer: generation_config.json's, else the tokenizer's."""
        ids = self.defaults.eos_token_id
        if ids is None:
            ids = self.tokenizer.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

    def finished(self, ids: list[int], logprobs: list[float]) -> Answer:
        """The answer that a row of drawn tokens is, up to its end token."""
        ends = set(self.end_ids())
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        finished = length < len(ids)
        counted = logprobs[: length + 1] if finished else logprobs
        kept = ids[:length]
        string = str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()
        return Answer(string, tuple(kept), sum(counted) / len(counted), finished)


@contextmanager
def seeded(sampling: Sampling, device: torch.device) -> Iterator[None]:
    """Under a seed, random numbers of the block's own."""
    forked = sampling.temperature > 0 and sampling.seed is not None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=forked):
        if forked:
            torch.manual_seed(sampling.seed)
        yield
