"""SAM 2 as PAM uses it: the unmodified `sam2` package, with PAM's intermediate tensors taken from outside.

PAM (arXiv 2506.05302, section 3.1) runs SAM 2.1 as its video predictor runs one prompted frame: mask token 0 is always
the mask, no multimask output, no hole filling; and it reads two intermediate tensors of the mask decoder.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from sam2.modeling.sam2_base import NO_OBJ_SCORE, SAM2Base
from torch import nn
from torch.nn import functional

from model.compute.batches import fitting, in_batches
from model.compute.precision import full_float32
from model.compute.resize import agrees, resized
from model.sam.boxes import rough_masks
from model.sam.encoder import Encoder
from model.values.embedding import Embedding
from model.values.image import to_square
from model.values.prompt import Prompt
from model.values.region import Region, RegionFeatures, Segment

Made = TypeVar("Made")

PROMPTS_ON_CPU, PROMPTS_ON_GPU = 4, 32
"""Prompts that go through the mask decoder together; bounds the memory of one step (about 20 MB a prompt at n = 64)."""

STABILITY_OFFSET = 1.0
"""Logits by which the threshold is moved up and down to see how sharp a mask's edge is, as in SAM's mask generator."""

_STABILITY_DELTA = 0.05  # to choose a mask token, SAM 2's own
_STABILITY_THRESHOLD = 0.98
_DENSE_SCALE, _DENSE_BIAS = 20.0, -10.0  # a mask as logits of ±10, as SAM 2 itself turns masks into logits


@dataclass(frozen=True, eq=False)
class Decoded:
    """The mask decoder's answer to a batch of B prompts of equal length, on the model's device.

    Attributes:
        mask_logits: (B, 4n, 4n) of mask token 0, -1024 where the object score is <= 0.
        ious: (B, 4), predicted, of the four mask tokens.
        object_scores: (B,), raw logits.
        mask_tokens: (B, 2, 256), PAM's two mask tokens.
        image: (B, 256, n, n), the image side of the decoder's transformer.
    """

    mask_logits: torch.Tensor
    ious: torch.Tensor
    object_scores: torch.Tensor
    mask_tokens: torch.Tensor
    image: torch.Tensor

    def features(self, row: int) -> RegionFeatures:
        """What the perceiver reads of a row: copies, so that it does not keep the whole batch's tensors alive."""
        return RegionFeatures(self.image[row].clone(), self.mask_tokens[row].clone())

    @property
    def bytes_each(self) -> int:
        """Of a row."""
        rows = (self.mask_logits, self.ious, self.object_scores, self.mask_tokens, self.image)
        return sum(row[0].numel() * row.element_size() for row in rows)

    def take(self, rows: torch.Tensor) -> Decoded:
        """Some rows only, by their numbers (N,) int64."""
        tokens, image = self.mask_tokens[rows], self.image[rows]
        return Decoded(self.mask_logits[rows], self.ious[rows], self.object_scores[rows], tokens, image)


class _TopPositions(nn.Module):
    """The neck's position encoding, of its top level only: nobody reads those of the finer levels, and at 1024 pixels
    they take 200 MB to make and 80 MB to keep."""

    def __init__(self, whole: nn.Module, sam: SAM2Base) -> None:
        super().__init__()
        self.whole = whole
        self._stride = sam.backbone_stride
        self._side = lambda: sam.image_size  # training changes it; no submodule, which would be a circle

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.shape[-1] > self._side() // self._stride:
            return features.new_zeros(()).expand(features.shape)
        positions: torch.Tensor = self.whole(features)
        return positions


class Tower:
    """SAM 2's encoder and mask decoder around one loaded `SAM2Base`.

    A lower `dtype` is that of the image encoder (nearly all of the arithmetic, see `Encoder`) and of what it gives; the
    decoder stays in float32, because the unmodified one cannot be cast, and coordinates in bfloat16 would move clicks
    by whole pixels.
    """

    def __init__(self, sam: SAM2Base, dtype: torch.dtype = torch.float32) -> None:
        self.sam = sam.eval().requires_grad_(False)
        # as SAM 2's own builder of video predictors does, and PAM's with it: a person's mask is remembered as 0 and 1
        self.sam.binarize_mask_from_pts_for_mem_enc = True
        neck = self.sam.image_encoder.neck
        if not isinstance(neck.position_encoding, _TopPositions):
            neck.position_encoding = _TopPositions(neck.position_encoding, self.sam)
        _come_along(self.sam, self.device)
        self.dtype = dtype
        self.encoder = Encoder(sam, dtype)
        # on a CPU Pillow itself is quicker
        self.resizes = self.device.type == "cuda" and agrees()
        self._decoding = threading.Lock()

    @property
    def image_size(self) -> int:
        """Side of the square that pictures are resized to, pixels."""
        return int(self.sam.image_size)

    @property
    def device(self) -> torch.device:
        return next(self.sam.parameters()).device

    @property
    def bytes_to_encode(self) -> int:
        """Memory that encoding one picture takes, nearly: the widest layer of SAM 2's large encoder."""
        return 256 * self.image_size**2 * self.dtype.itemsize

    @property
    def prompts_at_once(self) -> int:
        """Prompts that go through the mask decoder together."""
        return PROMPTS_ON_CPU if self.device.type == "cpu" else PROMPTS_ON_GPU

    @torch.no_grad()
    def encode(self, images: Sequence[Image.Image]) -> list[Embedding]:
        """Encode upright RGB pictures together."""
        levels = self.encoder(self._pixels(images))
        rows = [[level[i : i + 1] for level in levels] for i in range(len(images))]
        if len(images) > 1:
            # copies, so that a kept embedding does not keep the whole batch's alive
            rows = [[level.clone() for level in row] for row in rows]
        return [
            Embedding(image.width, image.height, top, (finest, finer))
            for image, (finest, finer, top) in zip(images, rows, strict=True)
        ]

    def _pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """What the encoder reads of pictures: (B, S, S, 3) uint8 on the device."""
        if self.resizes:
            return torch.stack([resized(self._sent([np.asarray(image)])[0], self.image_size) for image in images])
        return self._sent([to_square(image, self.image_size) for image in images])

    def _sent(self, pixels: Sequence[np.ndarray]) -> torch.Tensor:
        """(B, H, W, 3) on the device, of pictures (H, W, 3) of one size; from pinned memory, where the host need not
        wait for the copy."""
        on_cuda = self.device.type == "cuda"
        host = torch.empty(len(pixels), *pixels[0].shape, dtype=torch.uint8, pin_memory=on_cuda)
        for row, one in zip(host.numpy(), pixels, strict=True):
            row[:] = one
        return host.to(self.device, non_blocking=on_cuda)

    def settle(self, most: int, compiled: bool) -> None:
        """Encode in batches of one and, if so many fit, of `most` pictures from now on; see `Encoder.settle`."""
        fits = most > 1 and fitting(self.device, self.bytes_to_encode, most) == most
        self.encoder.settle((1, most) if fits else (1,), compiled)

    @torch.no_grad()
    def decode(
        self,
        embedding: Embedding | Sequence[Embedding],
        coords: torch.Tensor,
        labels: torch.Tensor,
        dense: torch.Tensor | None,
    ) -> Decoded:
        """Decode B prompts of N points each.

        Args:
            embedding: of the picture, on the model's device; or one for each prompt.
            coords: (B, N, 2) float32, in pixels of the image_size square.
            labels: (B, N) int32: 1 / 0 points, 2 / 3 box corners.
            dense: (B, 1, 4n, 4n) float32 mask logits as dense prompt, or None.
        """
        features, *high_resolution = _levels(embedding)
        features = features.float() + self.sam.no_mem_embed.reshape(1, -1, 1, 1)
        return self.decode_features(features, high_resolution, coords, labels, dense)

    @torch.no_grad()
    @full_float32
    def decode_features(
        self,
        features: torch.Tensor,
        high_resolution: Sequence[torch.Tensor],
        coords: torch.Tensor,
        labels: torch.Tensor,
        dense: torch.Tensor | None = None,
    ) -> Decoded:
        """As `decode`, from the top level as the decoder is to see it: (1 or B, 256, n, n) float32, and the finer ones.

        In a video, memory is in it instead of SAM 2's `no_mem_embed`.
        """
        encoder, decoder = self.sam.sam_prompt_encoder, self.sam.sam_mask_decoder
        sparse, dense_embedding = encoder(points=(coords, labels), boxes=None, masks=dense)
        batch = len(coords)
        captured: list[torch.Tensor] = []
        # the hook sees every call of the transformer, so only one thread may decode at a time
        with self._decoding:
            hook = decoder.transformer.register_forward_hook(lambda _module, _args, out: captured.append(out[1]))
            try:
                raw, ious, tokens, scores = decoder.predict_masks(
                    image_embeddings=features.expand(batch, -1, -1, -1),
                    image_pe=encoder.get_dense_pe(),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense_embedding,
                    repeat_image=False,
                    high_res_features=[level.float().expand(batch, -1, -1, -1) for level in high_resolution],
                )
            finally:
                hook.remove()
        scores = scores[:, 0]
        stability = _stability(raw[:, 0])
        best = 1 + ious[:, 1:].argmax(dim=1)
        chosen = torch.where(stability >= _STABILITY_THRESHOLD, torch.zeros_like(best), best)
        rows = torch.arange(batch, device=raw.device)
        return Decoded(
            mask_logits=torch.where((scores > 0)[:, None, None], raw[:, 0], NO_OBJ_SCORE),
            ious=ious,
            object_scores=scores,
            mask_tokens=torch.stack([tokens[rows, chosen], tokens[:, 0]], dim=1),
            image=captured[0].transpose(1, 2).reshape(features.expand(batch, -1, -1, -1).shape),
        )

    def segment(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt], refine_masks: bool = False
    ) -> list[Region]:
        """One region for each prompt on its picture; prompts with as many points go through the decoder together."""

        def regions(pictures: Sequence[Embedding], asked: Sequence[Prompt], decoded: Decoded) -> list[Region]:
            given = [None if refine_masks else prompt.mask for prompt in asked]
            segments = self.segments(pictures, decoded, given)
            return [Region.of(*one) for one in zip(segments, asked, pictures, strict=True)]

        return self.each(embeddings, prompts, regions)

    def each(
        self,
        embeddings: Sequence[Embedding],
        prompts: Sequence[Prompt],
        made: Callable[[Sequence[Embedding], Sequence[Prompt], Decoded], list[Made]],
    ) -> list[Made]:
        """What is made of each prompt's decoded row, in batches; `made` is called with a batch.

        Padding would change the result (the decoder's attention has no mask), so prompts are grouped by their kind.
        """
        groups: dict[tuple[int, bool, bool], list[int]] = defaultdict(list)
        for i, prompt in enumerate(prompts):
            groups[prompt.kind].append(i)

        def decode(members: Sequence[int]) -> list[Made]:
            pictures, asked = [embeddings[i] for i in members], [prompts[i] for i in members]
            return made(pictures, asked, self.decode(pictures, *self.tensors(pictures, asked)))

        found: dict[int, Made] = {}
        for members in groups.values():
            found |= zip(members, in_batches(members, decode, self.prompts_at_once), strict=True)
        return [found[i] for i in range(len(prompts))]

    def tensors(
        self, embedding: Embedding | Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Coordinates, labels and dense prompts for `decode`; the prompts must be of one kind."""
        pairs = [prompt.sparse() for prompt in prompts]
        pictures = [embedding] if isinstance(embedding, Embedding) else embedding
        size = torch.tensor([[[e.width, e.height]] for e in pictures], dtype=torch.float32)
        coords = torch.from_numpy(np.stack([c for c, _ in pairs])).to(torch.float32) / size * self.image_size
        labels = torch.from_numpy(np.stack([label for _, label in pairs]))
        masks = [prompt.mask for prompt in prompts if prompt.mask is not None]
        dense = None
        if masks:
            # one after the other: pictures differ in size
            dense = torch.cat([self._dense(mask) for mask in masks]).to(self.device)
        coords = coords.to(self.device)
        if prompts[0].box is not None:
            dense = rough_masks(self.sam, coords[:, :2])
        return coords, labels.to(self.device), dense

    def _dense(self, mask: np.ndarray) -> torch.Tensor:
        logits = torch.from_numpy(mask)[None, None].float() * _DENSE_SCALE + _DENSE_BIAS
        side = self.image_size // 4
        scaled: torch.Tensor = functional.interpolate(
            logits, (side, side), mode="bilinear", align_corners=False, antialias=True
        )
        return scaled

    def segments(
        self,
        embedding: Embedding | Sequence[Embedding],
        decoded: Decoded,
        given: Sequence[np.ndarray | None] | None = None,
    ) -> list[Segment]:
        """What a decoded batch sees, row by row; all of it comes to the host at once.

        Args:
            embedding: as of `decode`.
            decoded: B rows.
            given: for each row the mask (H, W) that it keeps whatever was decoded, or None.
        """
        rows = range(len(decoded.mask_logits))
        pictures = [embedding] * len(rows) if isinstance(embedding, Embedding) else embedding
        masks = dict(enumerate(given or ()))
        asked = [row for row in rows if masks.get(row) is None]
        found = [full_size(decoded.mask_logits[row], pictures[row].height, pictures[row].width) > 0 for row in asked]
        sharpness = stability(decoded.mask_logits)
        here, numbers = on_host(found, torch.stack([decoded.ious[:, 0], decoded.object_scores, sharpness], dim=1))
        masks |= zip(asked, here, strict=True)
        return [
            Segment(
                mask=mask,
                low_res=decoded.mask_logits[row].clone(),
                iou=float(numbers[row, 0]),
                object_score=float(numbers[row, 1]),
                stability=float(numbers[row, 2]),
                features=decoded.features(row),
            )
            for row in rows
            if (mask := masks[row]) is not None
        ]


def _come_along(sam: SAM2Base, device: torch.device) -> None:
    """Move what SAM 2 makes on the first GPU, whichever it is to run on, and would look up there each time."""
    for module in sam.modules():
        if isinstance(module, PositionEmbeddingSine):
            module.cache.clear()  # made anew where it is asked for
        elif isinstance(module, RoPEAttention):
            module.freqs_cis = module.freqs_cis.to(device)


def _levels(embedding: Embedding | Sequence[Embedding]) -> list[torch.Tensor]:
    """Features and both finer levels: (1, ...) of one picture, (B, ...) of several."""
    pictures = [embedding] if isinstance(embedding, Embedding) else embedding
    if all(picture is pictures[0] for picture in pictures):
        return [pictures[0].features, *pictures[0].high_resolution]
    each = [(picture.features, *picture.high_resolution) for picture in pictures]
    return [torch.cat(level) for level in zip(*each, strict=True)]


def full_size(mask_logits: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Low-res mask logits (4n, 4n) → (height, width), bilinear straight to the picture's size, as PAM does."""
    scaled: Any = functional.interpolate(
        mask_logits[None, None].float(), (height, width), mode="bilinear", align_corners=False
    )
    return scaled[0, 0]


def on_host(
    masks: Sequence[torch.Tensor], numbers: torch.Tensor, together: bool | None = None
) -> tuple[list[np.ndarray], np.ndarray]:
    """Boolean masks (H, W) of any sizes, and numbers (B, N) float32, as arrays.

    `together`: in a single copy, masks as bits; None does so from another device, where each copy waits for it.
    """
    if not (numbers.device.type != "cpu" if together is None else together):
        return [mask.numpy() for mask in masks], numbers.numpy()
    head = numbers.contiguous().view(torch.uint8).flatten()
    data = torch.cat([head, *map(packed, masks)]).cpu().numpy()
    first = data[: len(head)].view(np.float32).reshape(numbers.shape)
    return unpacked(data[len(head) :], [tuple(mask.shape) for mask in masks]), first


def packed(mask: torch.Tensor) -> torch.Tensor:
    """A boolean tensor as bits, uint8 (numel / 8, rounded up): what numpy's packbits gives."""
    flat = functional.pad(mask.flatten(), (0, -mask.numel() % 8)).view(-1, 8)
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=mask.device)
    return (flat * weights).sum(1, dtype=torch.uint8)


def unpacked(bits: np.ndarray, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """Boolean arrays of these shapes from the bits of each, one behind the other."""
    found, start = [], 0
    for shape in shapes:
        count = int(np.prod(shape))
        stop = start + -(-count // 8)
        found.append(np.unpackbits(bits[start:stop], count=count).reshape(shape).view(bool))
        start = stop
    return found


def stability(logits: torch.Tensor) -> torch.Tensor:
    """IoU of the masks at the threshold moved up and down, (B,) in 0..1, of logits (B, H, W); 0 for empty masks."""
    inner = (logits > STABILITY_OFFSET).flatten(1).sum(1)
    outer = (logits > -STABILITY_OFFSET).flatten(1).sum(1)
    return inner / outer.clamp(min=1)


def _stability(logits: torch.Tensor) -> torch.Tensor:
    """Share of the pixels above -0.05 that are also above 0.05, (B,); 1 where there are none."""
    inner = (logits > _STABILITY_DELTA).flatten(1).sum(1).float()
    outer = (logits > -_STABILITY_DELTA).flatten(1).sum(1).float()
    return torch.where(outer > 0, inner / outer.clamp(min=1), torch.ones_like(outer))
