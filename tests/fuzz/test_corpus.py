"""The corpus: hostile and odd pictures through a real worker, odd but valid labelling configs through the front."""

from __future__ import annotations

import json

import pytest

from backend.labeling.roles import read_roles
from tests.fuzz.bodies import CONFIGS
from tests.fuzz.conftest import Front
from tests.fuzz.images import ACCEPTED, REFUSED
from tests.http.stack import CONFIG, data_url, point

SMART = {"point": "keypointlabels", "точка": "keypointlabels", "pa": "keypoint", "box": "rectanglelabels"}


def ask(front: Front, data: bytes) -> tuple[int, str]:
    body = {
        "tasks": [{"id": 1, "data": {"image": data_url(data)}}],
        "label_config": CONFIG,
        "params": {"context": {"result": [point(50, 50)]}},
    }
    answer = front.post("/predict", json.dumps(body).encode())
    return answer.status_code, answer.get_json().get("error", {}).get("type", "")


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_pictures_are_refused_as_such(front: Front, name: str) -> None:
    code, kind = ask(front, REFUSED[name])
    assert (code, kind) in ((422, "PictureError"), (413, "PictureTooLarge"), (400, "BadRequest")), (code, kind)


@pytest.mark.parametrize("name", ACCEPTED)
def test_odd_pictures_are_answered(front: Front, name: str) -> None:
    assert ask(front, ACCEPTED[name]) == (200, "")


def prompt(front: Front, name: str) -> dict[str, object] | None:
    """A click or box of the config's own smart control."""
    roles = read_roles(CONFIGS[name])
    image = next((image for image in roles.images.values() if image.geometry), None)
    if image is None:
        return None
    for control, kind in SMART.items():
        if control in roles.controls:
            value = {"x": 30, "y": 30, "width": 20, "height": 20, kind: ["a"]}
            return point(50, 50, from_name=control, to_name=image.name, type=kind) | {"value": value}
    return None


@pytest.mark.parametrize("name", CONFIGS)
def test_odd_but_valid_configs_are_understood(front: Front, name: str) -> None:
    answer = front.post("/setup", json.dumps({"schema": CONFIGS[name]}).encode())
    assert answer.status_code == 200, answer.get_data(as_text=True)
    roles = read_roles(CONFIGS[name])
    good = data_url(ACCEPTED["PNG L"])
    data = {image.key: good for image in roles.images.values()} | {"labels": [], "tree": [], "text": "t"}
    given = prompt(front, name)
    context = None if given is None else {"result": [given]}
    body = {"tasks": [{"id": 1, "data": data}], "label_config": CONFIGS[name], "params": {"context": context}}
    answer = front.post("/predict", json.dumps(body).encode())
    assert answer.status_code == 200, answer.get_data(as_text=True)
    (prediction,) = answer.get_json()["results"]
    if given is not None:
        geometry = prediction["result"][0]
        assert geometry["from_name"] in {control.name for image in roles.images.values() for control in image.geometry}
