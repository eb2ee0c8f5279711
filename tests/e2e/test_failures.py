"""What goes wrong must be readable by the annotator, who sees neither logs nor HTTP."""

from __future__ import annotations

from playwright.sync_api import Route

from demo.truth import Scene
from tests.e2e.conftest import Desk
from tests.waiting import wait_until

NOWHERE = "http://pictures.invalid/ladybird.png"  # a name that RFC 2606 promises never to resolve


def test_the_annotator_reads_that_the_picture_cannot_be_fetched(desk: Desk, scenes: dict[str, Scene]) -> None:
    scene = scenes["test-11-00012"]

    def serve(route: Route) -> None:
        # the browser has the picture, as from an annotator's own network; only Pallas cannot reach its host
        route.fulfill(path=scene.picture, headers={"Access-Control-Allow-Origin": "*"})

    desk.page.page.route(NOWHERE, serve)
    task = desk.label_studio.add_task(desk.project, {"image": NOWHERE})
    desk.page.open(desk.project, task)
    desk.page.auto_annotation()
    desk.page.choose("KeyPoint")
    desk.page.click(*scene.thing("ladybird").inside())
    wait_until(lambda: "pictures.invalid" in desk.page.words())
