"""One layer of Qwen2 for one token a row, as a function of its weights: compiled once, it serves all layers.

Shapes: B = R · T rows, region by region; keys and values are (B or R, kv_heads, room, head), laid out ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2ForCausalLM

from model.compute.precision import products


@dataclass(frozen=True)
class Weights:
    """Of one layer; queries, keys and values lie in one matrix, and so do the MLP's two inputs."""

    qkv: torch.Tensor
    qkv_bias: torch.Tensor
    out: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    before: torch.Tensor
    between: torch.Tensor


def weights_of(model: Qwen2ForCausalLM) -> list[Weights]:
    """The layers' weights; the model's own parameters become views of the joined ones: nothing is kept twice."""
    found = []
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        found.append(
            Weights(
                _joined([attention.q_proj, attention.k_proj, attention.v_proj], "weight"),
                _joined([attention.q_proj, attention.k_proj, attention.v_proj], "bias"),
                attention.o_proj.weight.detach(),
                _joined([mlp.gate_proj, mlp.up_proj], "weight"),
                mlp.down_proj.weight.detach(),
                layer.input_layernorm.weight.detach(),
                layer.post_attention_layernorm.weight.detach(),
            )
        )
    return found


def _joined(layers: list[nn.Linear], name: str) -> torch.Tensor:
    whole = torch.cat([getattr(layer, name).detach() for layer in layers])
    parts = whole.split([len(getattr(layer, name)) for layer in layers])
    for layer, part in zip(layers, parts, strict=True):
        getattr(layer, name).data = part
    return whole


def normed(rows: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """RMS norm as Qwen2 computes it: in float32, cast, then scaled."""
    exact = rows.float()
    exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + epsilon)
    return weight * exact.to(rows.dtype)


def turned(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (B, heads, head)."""
    first, second = heads.chunk(2, -1)
    return heads * cosine + torch.cat([-second, first], -1) * sine


def layer_step(
    rows: torch.Tensor,
    qkv: torch.Tensor,
    qkv_bias: torch.Tensor,
    out: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    before: torch.Tensor,
    between: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    prefix_keys: torch.Tensor,
    prefix_values: torch.Tensor,
    own_mask: torch.Tensor,
    prefix_mask: torch.Tensor,
    cosine: torch.Tensor,
    sine: torch.Tensor,
    slot: torch.Tensor,
    epsilon: float,
    summed: bool,
) -> torch.Tensor:
    """Hidden vectors (B, hidden) after the layer; each row's keys and values of this token go to its `slot`.

    Args:
        rows: (B, hidden).
        qkv, qkv_bias, out, gate_up, down, before, between: `Weights`.
        keys, values: (B, kv_heads, room, head), the rows' own; written.
        prefix_keys, prefix_values: (R, kv_heads, length, head), what the rows of a region share.
        own_mask: (B, 1, 1, room) float32, 0 where a row sees, else -inf.
        prefix_mask: (length,) float32, the same of the prefix.
        cosine, sine: (B, 1, head).
        slot: (B,) int64, columns of the rows' own.
        epsilon: of the norms.
        summed: see `products`.
    """
    count, kv_heads, _, size = keys.shape
    regions = prefix_keys.shape[0]
    each = count // regions
    heads = out.shape[1] // size
    group = heads // kv_heads
    hidden = normed(rows, before, epsilon)
    query, key, value = functional.linear(hidden, qkv, qkv_bias).split(
        [heads * size, kv_heads * size, kv_heads * size], -1
    )
    query = turned(query.view(count, heads, size), cosine, sine).view(count, kv_heads, group, size)
    # put by indices, which is compiled in place: of a scatter all keys were copied, and copied back
    at = torch.arange(count, device=rows.device)
    keys[at, :, slot] = turned(key.view(count, kv_heads, size), cosine, sine)
    values[at, :, slot] = value.view(count, kv_heads, size)
    scale = size**-0.5
    own = products(query, keys.transpose(2, 3), summed) * scale + own_mask
    # all rows of a region ask its prefix together
    asking = query.view(regions, each, kv_heads, group, size).transpose(1, 2)
    shared = products(asking.reshape(regions, kv_heads, each * group, size), prefix_keys.transpose(2, 3), summed)
    shared = shared * scale + prefix_mask
    # the two parts of one softmax, each weighed against the larger of both maxima
    own_top = own.amax(-1, keepdim=True).view(regions, each, kv_heads, group, 1).transpose(1, 2)
    top = torch.maximum(shared.amax(-1, keepdim=True), own_top.reshape(regions, kv_heads, each * group, 1))
    shared = torch.exp(shared - top)
    of_rows = top.view(regions, kv_heads, each, group, 1).transpose(1, 2).reshape(count, kv_heads, group, 1)
    own = torch.exp(own - of_rows)
    heard = products(shared.to(rows.dtype), prefix_values, summed)
    total = shared.sum(-1, keepdim=True)
    told = torch.cat([heard, total], -1).view(regions, kv_heads, each, group, size + 1).transpose(1, 2)
    told = told.reshape(count, kv_heads, group, size + 1)
    mine = products(own.to(rows.dtype), values, summed)
    mixed = (told[..., :size] + mine) / (told[..., size:] + own.sum(-1, keepdim=True))
    rows = rows + functional.linear(mixed.to(rows.dtype).reshape(count, heads * size), out)
    gate, up = functional.linear(normed(rows, between, epsilon), gate_up).chunk(2, -1)
    return rows + functional.linear(functional.silu(gate) * up, down)
