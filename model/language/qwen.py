"""The language model: Qwen2 from `transformers`, its tokenizer, the prompt around the image block, and generation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from model.language.grid import Choice, Grid, draw, read_prefix
from model.language.prefix import NAME, Prefix
from model.language.unsure import PreferUnsure, Unsure

_BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
_AFTER = "\n{instruction}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: 0 is greedy; PAM's authors use 0.1.
        max_new_tokens: tokens of an answer at most, the end token included.
        repetition_penalty: None takes the checkpoint's own (generation_config.json); 1 is none. It sees the generated
            tokens only, as in PAM.
        seed: for temperature > 0; None draws anew each time.
        suppress_end: never draw an end token (for tests and benchmarks that need a fixed length).
    """

    temperature: float = 0.0
    max_new_tokens: int = 64
    repetition_penalty: float | None = None
    seed: int | None = None
    suppress_end: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: give 0 (greedy) or a positive number")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens {self.max_new_tokens}: give at least 1")
        if self.repetition_penalty is not None and self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty {self.repetition_penalty}: give a positive number, 1 is none")


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
        self.fixed = False
        """Whether the token loop has fixed shapes, for CUDA graphs (`model.language.graph`)."""

    def prompt_ids(self, instruction: str) -> tuple[list[int], list[int]]:
        """Token ids before and after the image block; each side is tokenised on its own, as PAM does."""
        before = self.tokenizer(_BEFORE, add_special_tokens=False)["input_ids"]
        after = self.tokenizer(_AFTER.format(instruction=instruction), add_special_tokens=False)["input_ids"]
        return before, after

    @torch.no_grad()
    def embed(self, block: torch.Tensor, instruction: str) -> torch.Tensor:
        """The whole prompt as vectors: (L, hidden) from an image block (K, hidden)."""
        table = self.model.get_input_embeddings()
        before, after = (table(torch.tensor(ids, device=block.device)) for ids in self.prompt_ids(instruction))
        return torch.cat([before, block.to(before.dtype), after])[: self.max_vectors]

    @torch.no_grad()
    def read(self, blocks: torch.Tensor) -> Prefix:
        """Read the beginning of R prompts once, system text and image block: blocks (R, K, hidden)."""
        before = torch.tensor(self.prompt_ids("")[0], device=blocks.device)
        vectors = self.model.get_input_embeddings()(before)
        vectors = vectors.expand(len(blocks), -1, -1)
        return read_prefix(self.model, torch.cat([vectors, blocks.to(vectors.dtype)], dim=1)[:, : self.max_vectors])

    def bytes_of(self, tokens: int) -> int:
        """Memory that so many tokens of one row take: keys and values of all layers, and one row of logits."""
        config = self.model.config
        size = config.hidden_size // config.num_attention_heads
        each = 2 * config.num_hidden_layers * config.num_key_value_heads * size * self.model.dtype.itemsize
        return tokens * each + 8 * int(config.vocab_size)

    def bytes_to_read(self, tokens: int) -> int:
        """Memory that reading a prompt of so many tokens takes: what is kept of it, and the widest layer's numbers."""
        config = self.model.config
        width = 3 * config.intermediate_size + 4 * config.hidden_size
        return self.bytes_of(tokens) + tokens * width * self.model.dtype.itemsize

    def question_ids(self, prefix: Prefix, instruction: str) -> list[int]:
        """What follows the image block in a prompt."""
        return self.prompt_ids(instruction)[1][: max(self.max_vectors - prefix.length, 1)]

    @torch.no_grad()
    def answer(self, prefix: Prefix, instructions: Sequence[str], sampling: Sampling) -> list[list[Answer]]:
        """Answers of R regions to T instructions, by region; all rows are drawn together."""
        questions = [self.question_ids(prefix, text) for text in instructions]
        if not prefix.regions or not questions:
            return [[] for _ in range(prefix.regions)]
        with _seeded(sampling, prefix.device):
            grid = Grid(self.model, prefix, questions, sampling.max_new_tokens, self.fixed)
            drawn = draw(grid, self._choice(sampling), self.end_ids(), sampling.max_new_tokens)
        each = iter(zip(drawn.ids.tolist(), drawn.logprobs.tolist(), strict=True))
        return [[self._answer(*next(each)) for _ in questions] for _ in range(prefix.regions)]

    def _choice(self, sampling: Sampling) -> Choice:
        processors = self._processors(sampling)
        if sampling.suppress_end and self.end_ids():
            processors.append(SuppressTokensLogitsProcessor(self.end_ids(), device=str(self.model.device)))
        # the authors leave the folder's top_k in force
        return Choice(processors, sampling.temperature, self.defaults.top_k or 0)

    def _processors(self, sampling: Sampling) -> LogitsProcessorList:
        penalty = sampling.repetition_penalty or self.defaults.repetition_penalty or 1.0
        processors = LogitsProcessorList()
        if self.unsure is not None and sampling.temperature == 0:
            processors.append(PreferUnsure(self.unsure))
        if penalty != 1:
            processors.append(RepetitionPenaltyLogitsProcessor(float(penalty)))
        return processors

    @torch.no_grad()
    def generate(self, prompts: Sequence[torch.Tensor], sampling: Sampling) -> list[Answer]:
        """Answer a batch of whole prompts (L_i, hidden) with transformers' own generate(): one prompt, one answer.

        Shorter ones are padded on the left with a mask. `answer` gives the same and shares what prompts share.
        """
        if not prompts:
            return []
        embeds, attention = _left_pad(prompts)
        config = self._generation_config(sampling)
        # not through the config: generate() would count left padding as generated tokens and spare the first of them
        processors = self._processors(sampling)
        with _seeded(sampling, embeds.device):
            out = self.model.generate(
                inputs_embeds=embeds,
                attention_mask=attention,
                generation_config=config,
                logits_processor=processors,
            )
        logprobs = torch.stack(
            [
                torch.log_softmax(step.float(), dim=-1).gather(1, ids[:, None])[:, 0]
                for step, ids in zip(out.logits, out.sequences.T, strict=True)
            ],
            dim=1,
        )
        return [self._answer(ids, row) for ids, row in zip(out.sequences.tolist(), logprobs.tolist(), strict=True)]

    def end_ids(self) -> list[int]:
        """The ids that end an answer: generation_config.json's, else the tokenizer's."""
        ids = self.defaults.eos_token_id
        if ids is None:
            ids = self.tokenizer.eos_token_id
        return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        ends = self.end_ids()
        # a fresh object: the folder's sampling numbers would only make transformers warn under greedy decoding
        config = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sampling.temperature > 0,
            eos_token_id=ends or None,
            pad_token_id=self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else (ends or [0])[0],
            suppress_tokens=ends if sampling.suppress_end and ends else None,
            use_cache=True,
            return_dict_in_generate=True,
            output_logits=True,
        )
        if sampling.temperature > 0:
            config.temperature = sampling.temperature
            # the authors run with top_p None and leave the folder's top_k in force
            config.top_p = 1.0
            config.top_k = self.defaults.top_k or 0
        return config

    def _answer(self, ids: list[int], logprobs: list[float]) -> Answer:
        ends = set(self.end_ids())
        length = next((i for i, token in enumerate(ids) if token in ends), len(ids))
        finished = length < len(ids)
        counted = logprobs[: length + 1] if finished else logprobs
        kept = ids[:length]
        string = str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()
        return Answer(string, tuple(kept), sum(counted) / len(counted), finished)


@contextmanager
def _seeded(sampling: Sampling, device: torch.device) -> Iterator[None]:
    """Under a seed, random numbers of the block's own."""
    forked = sampling.temperature > 0 and sampling.seed is not None
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=forked):
        if forked:
            torch.manual_seed(sampling.seed)
        yield


def _left_pad(prompts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors (B, L, hidden) and mask (B, L) int64 from prompts of any lengths."""
    longest = max(len(prompt) for prompt in prompts)
    embeds = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[1])
    attention = torch.zeros(len(prompts), longest, dtype=torch.int64, device=embeds.device)
    for row, prompt in enumerate(prompts):
        embeds[row, longest - len(prompt) :] = prompt
        attention[row, longest - len(prompt) :] = 1
    return embeds, attention
