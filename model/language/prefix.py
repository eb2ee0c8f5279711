"""Keys and values that many rows share: the beginning of a prompt is kept once, each row keeps only what is its own.

The language model stays that of `transformers`: its attention is replaced through the public registry of attention
functions, its cache through the public class `DynamicCache`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, Qwen2ForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from model.compute.precision import products, sums_in_float32

NAME = "pallas"
"""Of the attention function in transformers' registry."""


@dataclass(frozen=True)
class Prefix:
    """Keys and values of the common beginnings of R prompts, by layer: (R, kv_heads, L, head) each."""

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def regions(self) -> int:
        """R."""
        return len(self.keys[0]) if self.keys else 0

    @property
    def length(self) -> int:
        """L, in tokens."""
        return int(self.keys[0].shape[2])

    @property
    def device(self) -> torch.device:
        return self.keys[0].device

    @property
    def nbytes(self) -> int:
        """Bytes on its device."""
        return sum(t.numel() * t.element_size() for side in self._sides for t in side)

    @classmethod
    def join(cls, parts: Iterable[Prefix], regions: int) -> Prefix:
        """Of all regions of the parts, in their order; `regions` says how many there are.

        Room is made once, and no more than one part lies beside it.
        """
        whole = cls((), ())
        start = 0
        for part in parts:
            if part.regions == regions:
                return part
            if not start:
                whole = cls(*(tuple(t.new_empty(regions, *t.shape[1:]) for t in side) for side in part._sides))
            for mine, theirs in zip((*whole.keys, *whole.values), (*part.keys, *part.values), strict=True):
                mine[start : start + part.regions] = theirs
            start += part.regions
            del part, theirs  # the next one is made now
        return whole

    def part(self, start: int, stop: int) -> Prefix:
        """Of regions `start` to before `stop`; it shares this one's memory."""
        return Prefix(*(tuple(t[start:stop] for t in side) for side in self._sides))

    @property
    def _sides(self) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
        return self.keys, self.values

    def take(self, regions: torch.Tensor) -> Prefix:
        """Of some regions only, by their numbers (N,) int64."""
        return Prefix(tuple(k[regions] for k in self.keys), tuple(v[regions] for v in self.values))


class KeyValues(DynamicCache):
    """A cache with room made ahead: writing a token copies that token, not everything before it."""

    def __init__(self, room: int) -> None:
        """`room` is the number of tokens that will be written at most."""
        super().__init__()
        self.room = room
        self.used = 0
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *more: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values (B, kv_heads, S, head); returns all written so far.

        Releases of transformers differ in what else they hand over; nothing of it is needed here.
        """
        new = key_states.shape[2]
        if layer_idx == len(self._keys):
            rows, heads, _, size = key_states.shape
            # zeros, since what a mask hides is still multiplied with
            self._keys.append(key_states.new_zeros(rows, heads, self.room, size))
            self._values.append(value_states.new_zeros(rows, heads, self.room, size))
        keys, values = self._keys[layer_idx], self._values[layer_idx]
        # every layer writes at the same place; the last one moves on
        end = self.used + new
        keys[:, :, self.used : end] = key_states
        values[:, :, self.used : end] = value_states
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Tokens written, of the rows' own."""
        return self.used

    def written(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values of all tokens written."""
        return self._keys[layer][:, :, : self.used], self._values[layer][:, :, : self.used]

    def advance(self, tokens: int) -> None:
        """After a forward pass: the next one writes behind its tokens; a negative number forgets some again."""
        self.used += tokens

    def keep(self, rows: torch.Tensor) -> None:
        """Only some rows go on, by their numbers (N,) int64."""
        self._keys = [k[rows] for k in self._keys]
        self._values = [v[rows] for v in self._values]

    def prefix(self) -> Prefix:
        """What was written, as the common beginning of other rows."""
        return Prefix(
            tuple(k[:, :, : self.used] for k in self._keys), tuple(v[:, :, : self.used] for v in self._values)
        )


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefix: Prefix | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Grouped-query attention of B rows to the prefix of their region and to their own keys, summed in float32.

    Rows lie region by region, the same number T for each, B = R·T. Without a prefix it is transformers' own attention.

    Args:
        module: the attention layer.
        query: (B, heads, S, head).
        key, value: (B, kv_heads, N, head), the rows' own.
        attention_mask: (1 or B, 1, S, N) boolean, True where a token sees another; the whole prefix is always seen.
        scaling: of the scores.
        dropout: without a prefix only.
        prefix: what the rows of each region share.
        more: handed on to transformers' own attention.

    Returns:
        (B, S, heads, head), and no weights.
    """
    if prefix is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return out, None
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    before, told = prefix.keys[layer], prefix.values[layer]
    rows, heads, steps, size = query.shape
    regions, kv_heads, length, _ = before.shape
    scale = size**-0.5 if scaling is None else scaling
    query = query.reshape(rows, kv_heads, heads // kv_heads * steps, size)
    mask = None if attention_mask is None else attention_mask.expand(rows, -1, -1, -1)
    each = rows // regions
    # scores lie in memory whole: of a few regions at a time
    several = max(1, SCORES_BYTES // score_bytes(each * heads * steps, length + key.shape[2]))
    if several >= regions:
        out = _attended(query, before, told, key, value, mask, scale)
    else:
        parts = []
        for start in range(0, regions, several):
            here = slice(start, start + several)
            mine = slice(start * each, (start + several) * each)
            shown = None if mask is None else mask[mine]
            parts.append(_attended(query[mine], before[here], told[here], key[mine], value[mine], shown, scale))
        out = torch.cat(parts)
    return out.reshape(rows, heads, steps, size).transpose(1, 2).contiguous(), None


SCORES_BYTES = 1 << 28
"""What attention's scores may take at a time; those of one region may take more."""


def score_bytes(queries: int, keys: int) -> int:
    """What attention to so many keys takes for so many queries, heads counted: the scores in float32, apart, joined and
    as weights."""
    return 16 * queries * keys


def _attended(
    query: torch.Tensor,
    before: torch.Tensor,
    told: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    """`attend` for B rows (B, kv_heads, group · S, head) of R regions; the mask is (B, 1, S, N)."""
    rows, kv_heads, asked, size = query.shape
    regions, _, length, _ = before.shape
    each = rows // regions
    if query.dtype == torch.float32:
        query, scale = query * scale, 1.0  # fewer numbers than the scores; a lower dtype would round them
    # all rows of a region ask its prefix together: it is read once
    together = query.reshape(regions, each, kv_heads, asked, size).transpose(1, 2)
    together = together.reshape(regions, kv_heads, each * asked, size)
    shared = _products(together, before.transpose(2, 3))
    shared = shared.reshape(regions, kv_heads, each, asked, length).transpose(1, 2)
    own = _products(query, key.transpose(2, 3))
    if scale != 1:
        shared, own = shared.mul_(scale), own.mul_(scale)
    if mask is not None:
        own = own.view(rows, kv_heads, asked // mask.shape[2], mask.shape[2], -1)
        own.masked_fill_(~mask[:, :, None], torch.finfo(own.dtype).min)
    scores = torch.cat([shared.reshape(rows, kv_heads, asked, length), own.reshape(rows, kv_heads, asked, -1)], dim=-1)
    if query.dtype == torch.float32:
        weights, total = functional.softmax(scores, dim=-1), None
    else:
        # divided afterwards: the largest weight is then 1, and nothing of it is lost in the lower dtype
        raised = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        weights, total = raised.to(query.dtype), raised.sum(-1, keepdim=True)
    seen, mine = weights[..., :length], weights[..., length:]
    seen = seen.reshape(regions, each, kv_heads, asked, length).transpose(1, 2)
    heard = _products(seen.reshape(regions, kv_heads, each * asked, length), told)
    heard = heard.reshape(regions, kv_heads, each, asked, size).transpose(1, 2)
    out = heard.reshape(rows, kv_heads, asked, size) + _products(mine, value)
    return out if total is None else (out / total).to(query.dtype)


def _products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return products(left, right, left.dtype != torch.float32 and sums_in_float32(left.device, left.dtype))


def read_on(
    model: Qwen2ForCausalLM,
    prefix: Prefix,
    kept: KeyValues,
    vectors: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Hidden vectors (B, S, hidden) of new tokens (B, S, hidden) behind a prefix and what rows keep of their own.

    Their keys and values go behind the others in `kept`; the mask is that of `attend`.
    """
    more: dict[str, Any] = {"prefix": prefix}
    out = model.model(
        inputs_embeds=vectors,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=kept,
        use_cache=True,
        **more,
    )
    kept.advance(vectors.shape[1])
    hidden: torch.Tensor = out.last_hidden_state
    return hidden


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
