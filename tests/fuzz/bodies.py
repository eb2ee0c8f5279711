"""Strategies for what strangers, broken clients and odd projects send: bodies of /setup, /predict and /webhook."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import images
from tests.http.stack import CONFIG

CONFIGS = {file.stem: file.read_text("utf-8") for file in sorted((Path(__file__).parent / "configs").glob("*.xml"))}
CONFIGS["ours"] = CONFIG

text = st.text(max_size=20)
number: st.SearchStrategy[Any] = st.one_of(
    st.floats(0, 100),
    st.integers(-5, 105),
    st.sampled_from([float("nan"), float("inf"), -1e308, 1e308, 10**30, -0.0, 1e-300, True, None, "7", "x", [], {}]),
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=6,
)


def _data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


GOOD = [_data_url(data) for data in images.ACCEPTED.values() if len(data) < 20_000][:4]
"""Pictures that the worker answers; few, so that it encodes them once."""

HOSTILE = [_data_url(data) for data in images.REFUSED.values() if len(data) < 100_000]

# no name that a resolver would ask the internet for
addresses = st.sampled_from(
    [
        *(
            "http://127.0.0.1:9/x.png",
            "http://[::1]/x",
            "http://10.0.0.1/x",
            "https://169.254.169.254/latest",
            "http://",
        ),
        *("http://x.invalid/x", "http://user:pw@x.invalid/", "http://0/", "http://[", "http://a b/", "HTTP://127.1/"),
        *("/data/upload/1/x.png", "/data/../etc/passwd", "/etc/passwd", "file:///etc/passwd", "file://", "s3://b/k"),
        *("gs://b", "azure-blob://c/x", "data:", "data:,x", "data:;base64,", "data:image/png;base64,AAAA", "blob:x"),
        *("ftp://x", "javascript:alert(1)", "\0", "../x", "//x", " ", "x" * 5000, "%00", "\u202e", "{{7*7}}", "$(id)"),
    ]
)
pictures = st.one_of(st.sampled_from(GOOD), st.sampled_from(GOOD), addresses, st.sampled_from(HOSTILE), anything)

names = st.sampled_from(
    [
        *(
            "mask",
            "point",
            "box",
            "image",
            "kind",
            "caption",
            "маска",
            "точка",
            "картинка 🖼",
            "outline",
            "tree",
            "path",
        ),
        "",
    ]
)
types = st.sampled_from(
    [
        *("keypointlabels", "rectanglelabels", "brushlabels", "polygonlabels", "ellipselabels", "bitmasklabels"),
        *("vectorlabels", "choices", "taxonomy", "textarea", "labels", "keypoint", "rectangle", "brush", "relation"),
        *("videorectangle", "timelinelabels", "labelslabels", "", "constructor"),
    ]
)
values = st.fixed_dictionaries(
    {},
    optional={
        "x": number,
        "y": number,
        "width": number,
        "height": number,
        "radiusX": number,
        "radiusY": number,
        "rotation": number,
        "keypointlabels": st.one_of(st.lists(text, max_size=2), st.just(["a"]), anything),
        "rectanglelabels": st.one_of(st.just(["food"]), anything),
        "brushlabels": anything,
        "rle": st.one_of(st.lists(st.integers(-1, 256), max_size=40), anything),
        "format": st.sampled_from(["rle", "png", None]),
        "imageDataURL": st.one_of(st.sampled_from(GOOD[:2]), anything),
        "points": st.one_of(st.lists(st.lists(number, max_size=3), max_size=5), anything),
        "vertices": anything,
        "closed": st.booleans(),
        "text": anything,
        "choices": anything,
        "sequence": anything,
    },
)
sizes = st.one_of(st.sampled_from([64, 48, 600, 400, 1, 0, -1, 10**9, "64"]), number)
items = st.one_of(
    st.fixed_dictionaries(
        {"type": types, "from_name": names, "to_name": names, "value": values},
        optional={
            "id": st.one_of(st.sampled_from(["a", "b", ""]), anything),
            "is_positive": st.one_of(st.booleans(), anything),
            "original_width": sizes,
            "original_height": sizes,
            "score": number,
            "meta": anything,
        },
    ),
    anything,
)


def click(x: float, y: float, positive: bool) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 1, "keypointlabels": ["food"]}
    where = {"from_name": "point", "to_name": "image", "type": "keypointlabels", "id": f"{x}{y}"}
    return where | {"value": value, "is_positive": positive, "original_width": 64, "original_height": 48}


clicks = st.lists(st.builds(click, st.floats(0, 100), st.floats(0, 100), st.booleans()), min_size=1, max_size=3)
works = st.one_of(
    st.lists(
        st.fixed_dictionaries(
            {"result": st.lists(items, max_size=3)},
            optional={"id": number, "was_cancelled": st.booleans(), "updated_at": st.one_of(text, st.none())},
        ),
        max_size=2,
    ),
    anything,
)
tasks = st.fixed_dictionaries(
    {"data": st.one_of(st.fixed_dictionaries({"image": pictures, "фото": pictures}), anything)},
    optional={
        "id": st.one_of(st.integers(1, 9), anything),
        "annotations": works,
        "drafts": works,
        "predictions": anything,
    },
)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """A labelling config with something cut, doubled or replaced."""
    config = draw(st.sampled_from(sorted(CONFIGS.values())))
    begin = draw(st.integers(0, len(config)))
    end = min(len(config), begin + draw(st.integers(0, 40)))
    put = draw(
        st.sampled_from(
            ["", "<View>", "</View>", '"', "&", "<!--", "]]>", "$", "\0", "\ufffe", "<Label value='&#0;'/>"]
        )
        | st.just(config[begin:end] * 3)
        | text
    )
    return config[:begin] + put + config[end:]


configs = st.one_of(
    st.sampled_from(sorted(CONFIGS.values())),
    mangled(),
    mangled(),
    st.sampled_from(
        [
            *("", "<View/>", "<View>", "null", "<View><Image/></View>", "<a>" * 5000, "<a>" * 5000 + "</a>" * 5000),
            '<!DOCTYPE v [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]><View>&b;</View>',
            '<!DOCTYPE v SYSTEM "file:///etc/passwd"><View/>',
            '<View xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="file:///etc/passwd"/></View>',
            "<View>" + '<Image name="i" value="$i"/>' * 200 + "</View>",
            '<View><Image name="image" value="$image"/><Brush name="m" toName="nobody"/></View>',
        ]
    ),
    text,
)
setups = st.one_of(
    st.fixed_dictionaries(
        {"schema": configs}, optional={"project": anything, "hostname": text, "extra_params": anything}
    ),
    st.fixed_dictionaries({"schema": anything}),
    anything,
)
contexts = st.one_of(
    st.none(),
    st.fixed_dictionaries({"result": st.lists(items, max_size=4)}),
    st.fixed_dictionaries({"result": clicks}),
    anything,
)
# what Label Studio would send, but for the prompts and pictures
plausible = st.fixed_dictionaries(
    {
        "tasks": st.tuples(
            st.fixed_dictionaries({"id": st.integers(1, 5), "data": st.fixed_dictionaries({"image": pictures})})
        ),
        "label_config": st.just(CONFIG),
        "project": st.just("1.1"),
        "params": st.fixed_dictionaries({"context": st.one_of(st.none(), st.fixed_dictionaries({"result": clicks}))}),
    }
)
predicts = st.one_of(
    plausible,
    plausible,
    st.fixed_dictionaries(
        {"tasks": st.lists(tasks, min_size=1, max_size=2), "label_config": configs},
        optional={"project": st.one_of(text, anything), "params": st.fixed_dictionaries({"context": contexts})},
    ),
    st.fixed_dictionaries(
        {"tasks": st.tuples(tasks), "label_config": st.just(CONFIG)},
        optional={"params": st.fixed_dictionaries({"context": contexts})},
    ),
    st.fixed_dictionaries({"tasks": anything, "label_config": anything, "params": anything}),
)
webhooks = st.one_of(
    st.fixed_dictionaries(
        {"action": st.one_of(st.sampled_from(["ANNOTATION_CREATED", "PROJECT_UPDATED"]), text)},
        optional={
            "annotation": st.one_of(st.fixed_dictionaries({"result": st.lists(items, max_size=3)}), works),
            "project": st.one_of(st.fixed_dictionaries({"id": number}), anything),
            "task": anything,
        },
    ),
    anything,
)


@st.composite
def raw(draw: st.DrawFn, bodies: st.SearchStrategy[Any]) -> bytes:
    """A body as bytes; now and then damaged on the way."""
    data = bytearray(json.dumps(draw(bodies), default=str).encode())
    if draw(st.integers(0, 19)) == 0 and data:
        at = draw(st.integers(0, len(data) - 1))
        piece = draw(st.sampled_from([b"", b"\0", b"\xff", b"\\ud800", b"[" * 3000, b'"', b"NaN", b"\xed\xa0\x80"]))
        data[at : at + draw(st.integers(0, 5))] = piece
    return bytes(data)
