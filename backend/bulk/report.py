"""One HTML file about a bulk job: the summary, and a contact sheet of the least certain tasks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from jinja2 import Environment

from backend.bulk.drawing import Words, draw_picture, draw_video, is_video
from backend.bulk.ledger import Ledger
from backend.bulk.naming import file_of, name_of
from backend.bulk.summary import Summary
from backend.errors import BackendError
from backend.fetching.pictures import PictureStore
from backend.fetching.videos import fetch
from backend.settings import Settings

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Pallas: bulk {{ job }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1300px; padding: 0 1rem; color: #222 }
 h1 { margin-bottom: 0 } .sub { color: #666; margin-top: .2rem }
 .grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem }
 figure { margin: 0; border: 1px solid #ddd; border-radius: 8px; overflow: hidden; background: #fafafa }
 img { width: 100%; display: block } figcaption { padding: .5rem .8rem; font-size: 14px }
 .tables { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start }
 table { border-collapse: collapse; font-size: 14px }
 td, th { border-bottom: 1px solid #ddd; padding: .2rem .7rem; text-align: left } td.n, th.n { text-align: right }
 .bar { background: #4363d8; height: .8em; display: inline-block }
</style></head><body>
<h1>Bulk {{ job }}</h1>
<p class="sub">{{ s.where }}; {{ s.status.state }}; {{ s.model_version }}</p>
<p>{{ s.status.done }} tasks predicted with {{ s.regions }} regions; left alone:
{% for why, n in s.skipped.items() %}{{ n }} {{ why }}{{ ", " if not loop.last }}{% else %}none{% endfor %};
failed: {{ s.status.failed }}; {{ s.status.clicks }} clicks served meanwhile.</p>
<div class="tables">
<table><tr><th>label</th><th class="n">regions</th></tr>
{% for label, n in s.labels %}<tr><td>{{ label }}</td><td class="n">{{ n }}</td></tr>{% endfor %}</table>
<table><tr><th>score</th><th class="n">tasks</th><th></th></tr>
{% for n in s.scores %}<tr><td>{{ "%.1f" | format(loop.index0 / 10) }} – {{ "%.1f" | format(loop.index / 10) }}</td>
<td class="n">{{ n }}</td>
<td><span class="bar" style="width: {{ 120 * n // (s.scores | max or 1) }}px"></span></td></tr>
{% endfor %}</table>
<table><tr><th>stage</th><th class="n">seconds</th></tr>
{% for stage, t in s.seconds.items() %}<tr><td>{{ stage }}</td><td class="n">{{ "%.1f" | format(t) }}</td></tr>
{% endfor %}</table>
{% if s.reasons %}<table><tr><th>failed because of</th><th class="n">tasks</th><th>for example</th></tr>
{% for kind, n, example in s.reasons %}<tr><td>{{ kind }}</td><td class="n">{{ n }}</td><td>{{ example }}</td></tr>
{% endfor %}</table>{% endif %}
</div>
<h2>The least certain</h2>
<div class="grid">
{% for c in cards %}<figure>{% if c.image %}<img src="data:image/jpeg;base64,{{ c.image }}" alt="{{ c.name }}">
{% else %}<figcaption>{{ c.reason }}</figcaption>{% endif %}
<figcaption>{{ c.name }}, score {{ "%.2f" | format(c.score) }}
{% for words in c.words %}<br><span style="color: {{ words[0] }}">■</span> {{ words[1] }}{% endfor %}
</figcaption></figure>
{% endfor %}</div></body></html>
"""


@dataclass(frozen=True)
class Card:
    """One task on the contact sheet, by its file's name; without an image the reason why."""

    name: str
    score: float
    image: str
    reason: str
    words: Words


def write_report(
    settings: Settings, client: redis.Redis, ledger: Ledger, summary: Summary, folder: Path | None, path: Path
) -> Path:
    """Write the page; pictures and videos are fetched once more, those of a folder or file input from the disk."""
    page = Environment(autoescape=True).from_string(_PAGE)
    cards = list(_cards(settings, client, ledger, folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.render(job=ledger.job, s=summary, cards=cards), encoding="utf-8")
    return path


def _cards(settings: Settings, client: redis.Redis, ledger: Ledger, folder: Path | None) -> Iterator[Card]:
    from backend.bulk.local import LocalPictures
    from model.errors import ModelError

    local = LocalPictures(settings, client, folder) if folder is not None else None
    roots = settings.local_roots if local is None else local.roots
    store = PictureStore(settings.model_copy(update={"local_roots": roots}), client)
    in_project = ledger.spec().project is not None
    for key, score in ledger.least_certain():
        packed = ledger.shown(key)
        if packed is None:
            continue
        shown = json.loads(zlib.decompress(packed))
        address = shown["picture"]
        name = name_of(key, file_of(address), in_project)
        try:
            if local is not None:
                address = local.address(address) or address
            image, words = _drawn(settings, store, address, shown["result"])
            yield Card(name, score, image, "", words)
        except (BackendError, ModelError, OSError) as error:
            yield Card(name, score, "", str(error), ())


def _drawn(settings: Settings, store: PictureStore, address: str, result: list[dict[str, Any]]) -> tuple[str, Words]:
    if not is_video(result):
        return draw_picture(store.fetch(address), result, settings.max_picture_pixels)
    with fetch(store, address, settings) as file:
        return draw_video(Path(file.name), result, settings)
