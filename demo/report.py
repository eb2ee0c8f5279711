"""One HTML file with everything in it: no links, nothing to download."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from jinja2 import Environment
from PIL import Image

from demo.client import Outcome
from demo.clip import CHANGE, ClipOutcome

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Pallas demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem; color: #222 }
 h1 { margin-bottom: 0 } .sub { color: #666; margin-top: .2rem }
 .grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(350px, 1fr)); gap: 1.2rem }
 figure { margin: 0; border: 1px solid #ddd; border-radius: 8px; overflow: hidden; background: #fafafa }
 img { width: 100%; display: block } figcaption { padding: .6rem .9rem }
 .notice { background: #fff3cd; border: 1px solid #e0c060; padding: .7rem 1rem; font-size: 18px; font-weight: 600 }
 .class { font-weight: 600 } .small { color: #666; font-size: 13px }
 table { border-collapse: collapse; width: 100%; margin-top: 2rem; font-size: 14px }
 td, th { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: left } td.n, th.n { text-align: right }
</style></head><body>
<h1>Pallas: a click comes back as mask, class and caption</h1>
<p class="sub">model {{ outcomes[0].model_version }}; green dots are inside clicks, red dots outside clicks</p>
{% if notice %}<p class="notice">{{ notice }}</p>{% endif %}
<div class="grid">
{% for o in outcomes %}<figure><img src="data:image/jpeg;base64,{{ o.overlay | inline }}"
 alt="{{ o.ask.picture }}: {{ o.class_text }}">
<figcaption><span class="class">{{ o.class_text or "(no class)" }}</span>
— {{ o.caption or "(no caption)" }}<br>
{% if o.iou is not none %}<span class="small">really: {{ o.ask.truth() }}; mask's IoU with the true one
{{ "%.2f" | format(o.iou) }}</span><br>{% endif %}
<span class="small">{{ o.ask.picture }}, {{ o.ask.title }}; mask {{ o.area }} px,
confidence {{ "%.2f" | format(o.score) }},
{{ "%.2f" | format(o.whole_s) }} s</span></figcaption></figure>
{% endfor %}</div>
<h2>A clip, with one box drawn on frame 1</h2>
<figure><img src="data:image/jpeg;base64,{{ clip.strip | inline }}" alt="frames of a tracked {{ clip.clip.kind }}">
<figcaption><span class="class">{{ clip.class_text or "(no class)" }}</span> — {{ clip.caption or "(no caption)" }}<br>
<span class="small">really: a {{ clip.clip.kind }} that moves from frame {{ change }} on;
{{ clip.keyframes }} keyframes, mean IoU with the true boxes {{ "%.2f" | format(clip.iou) }},
{{ "%.1f" | format(clip.whole_s) }} s</span>
{% for first, last, caption in clip.events %}<br>frames {{ first }} to {{ last }}: {{ caption }}{% endfor %}
</figcaption></figure>
<table><tr><th>picture</th><th>prompt</th><th>class</th><th>caption</th><th class="n">mask, px</th>
{% for s in stages %}<th class="n">{{ s }}, s</th>{% endfor %}<th class="n">all, s</th></tr>
{% for o in outcomes %}<tr><td>{{ o.ask.picture }}</td><td>{{ o.ask.title }}</td><td>{{ o.class_text }}</td>
<td>{{ o.caption }}</td><td class="n">{{ o.area }}</td>
{% for s in stages %}<td class="n">{{ "%.3f" | format(o.seconds.get(s, 0)) }}</td>{% endfor %}
<td class="n">{{ "%.3f" | format(o.whole_s) }}</td></tr>
{% endfor %}</table></body></html>
"""


def write_report(outcomes: list[Outcome], clip: ClipOutcome, path: Path, notice: str = "") -> Path:
    """Write the page, with a notice on top, and return its path."""
    environment = Environment(autoescape=True)
    environment.filters["inline"] = _inline
    page = environment.from_string(_PAGE)
    stages = ("queue", "fetch", "encode", "decode", "prefill", "generate", "shape")
    path.write_text(
        page.render(outcomes=outcomes, clip=clip, change=CHANGE, stages=stages, notice=notice), encoding="utf-8"
    )
    return path


def _inline(picture: Path) -> str:
    buffer = io.BytesIO()
    Image.open(picture).convert("RGB").save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
