"""*Start Training*, pressed in Label Studio: a version is promoted or refused with figures, as Pallas' page says."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from backend.tuning.gather import is_held
from tests.e2e.browser import LoggedIn
from tests.e2e.label_studio import LabelStudio
from tests.http.stack import Stack
from tests.tuning import made

_TRAINED_MS = 900_000
_ENOUGH, _HELD, _MOST = 40, 5, 120
_CONFIG = """<View><Image name="image" value="$image"/><Brush name="mask" toName="image"/></View>"""
"""Masks alone are learned: what else a run learns is the same to the button and to the page."""


def test_start_training(label_studio: LabelStudio, stack: Stack, browser: LoggedIn, artifacts: Path) -> None:
    project = label_studio.make_project(_CONFIG, "training")
    label_studio.connect(project, stack.url)
    made_up = made.tasks(_MOST)
    for task in made_up:
        (annotation,) = task["annotations"]
        task["annotations"] = [{"result": [item | {"type": "brush"} for item in annotation["result"][:1]]}]
    # which tasks are held out depends on their numbers, which Label Studio gives
    numbers: list[int] = []
    while len(numbers) < _ENOUGH or sum(is_held(str(number)) for number in numbers) < _HELD:
        count = max(10, _ENOUGH - len(numbers))
        numbers += label_studio.import_tasks(project, made_up[len(numbers) : len(numbers) + count])
    with browser.page() as page:
        page.goto(f"{label_studio.url}/projects/{project}/settings/ml")
        page.get_by_label("Machine learning model options").click()
        page.get_by_text("Start Training", exact=True).click()
        page.get_by_role("button", name="Start Training").click()
        expect(page.get_by_text("Request Sent!")).to_be_visible()
        page.goto(stack.url)
        row = page.locator("tr", has=page.get_by_role("cell", name=str(project), exact=True)).filter(
            has_text=re.compile("promoted|too little|failed")
        )
        # the page renews itself
        expect(row).to_contain_text(re.compile("promoted"), timeout=_TRAINED_MS)
        expect(row).to_contain_text(re.compile(r"masks: 0\.\d+ →\s+0\.\d+ on \d+ held-out regions"))
        page.screenshot(path=artifacts / "start-training.png", full_page=True)
