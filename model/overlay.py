"""Drawing: a picture with its regions, prompts and captions on it, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from model.values.prompt import Prompt

_CJK_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "PingFang.ttc", "msyh.ttc", "simsun.ttc")

COLOURS = ((230, 25, 75), (60, 180, 75), (67, 99, 216), (245, 130, 49), (145, 30, 180), (0, 150, 170))


def draw_regions(
    image: Image.Image, masks: Sequence[np.ndarray], prompts: Sequence[Prompt], captions: Sequence[str] = ()
) -> Image.Image:
    """The picture with each mask tinted and outlined, each prompt marked, and each caption below the picture.

    Args:
        image: upright RGB.
        masks: boolean (H, W), of the picture's size.
        prompts: one for each mask, in pixels; green dots are inside clicks, red dots outside clicks.
        captions: one for each mask.
    """
    canvas = np.asarray(image.convert("RGB")).astype(np.float32)
    for i, mask in enumerate(masks):
        colour = np.array(COLOURS[i % len(COLOURS)], dtype=np.float32)
        canvas[mask] = canvas[mask] * 0.55 + colour * 0.45
        canvas[_outline(mask, max(1, max(mask.shape) // 500))] = colour
    out = Image.fromarray(canvas.astype(np.uint8))
    pen = ImageDraw.Draw(out)
    size = max(3, max(out.size) // 130)
    for i, prompt in enumerate(prompts):
        if prompt.box is not None:
            pen.rectangle(prompt.box, outline=COLOURS[i % len(COLOURS)], width=max(2, size // 2))
        for x, y, label in prompt.points or ():
            fill = (40, 220, 60) if label else (235, 40, 40)
            pen.ellipse((x - size, y - size, x + size, y + size), fill=fill, outline="white", width=max(1, size // 4))
    return _with_captions(out, captions) if captions else out


def _outline(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of the mask within `width` pixels of its edge."""
    inner = mask.copy()
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _with_captions(image: Image.Image, captions: Sequence[str]) -> Image.Image:
    size = max(12, image.width // 45)
    font = _font(size, "".join(captions))
    pen = ImageDraw.Draw(image)
    lines: list[tuple[int, str]] = []
    for i, caption in enumerate(captions):
        lines += [(i, line) for line in _wrap(pen, caption, font, image.width - 3 * size)]
    height = round(size * 1.35)
    out = Image.new("RGB", (image.width, image.height + height * len(lines) + size // 2), "white")
    out.paste(image)
    pen = ImageDraw.Draw(out)
    for row, (i, line) in enumerate(lines):
        y = image.height + size // 4 + row * height
        pen.rectangle((size // 2, y + size // 4, size, y + size), fill=COLOURS[i % len(COLOURS)])
        pen.text((size * 1.5, y), line, fill="black", font=font)
    return out


def _font(size: int, text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or for Chinese the first of the usual ones that this machine has."""
    if any(ord(character) > 0x2E7F for character in text):
        for name in _CJK_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def _wrap(
    pen: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: int
) -> list[str]:
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and pen.textlength(longer, font=font) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
