from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from demo.truth import Scene, kinds, read_scenes
from tests.e2e import browser as chromium
from tests.e2e.configs import with_labels
from tests.e2e.label_studio import PROGRAM, LabelStudio, run_label_studio
from tests.e2e.labelling_page import LabellingPage
from tests.http.stack import SHIPPED, Stack, run_stack

ARTIFACTS = Path(__file__).parent.parent.parent / "test-artifacts" / "e2e"
SKIP = "PALLAS_SKIP_E2E"


# package scope: all of it ends before the next package's tests begin, and takes its memory along
@pytest.fixture(scope="package", autouse=True)
def artifacts() -> Path:
    """The folder of logs and screenshots; here it is decided whether these tests can run at all."""
    if os.environ.get(SKIP) == "1":
        pytest.skip(f"{SKIP}=1: nothing was tried in Label Studio and a browser")
    hint = f"run `make test`, which sets it up, or leave these tests out with {SKIP}=1"
    if not PROGRAM.exists():
        pytest.fail(f"Label Studio is not installed in {PROGRAM.parent.parent.name}: {hint}", pytrace=False)
    if chromium.find() is None:
        pytest.fail(f"no browser: none of {', '.join(chromium.NAMES)} is on the path; {hint}", pytrace=False)
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    return ARTIFACTS


@pytest.fixture(scope="package")
def server(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    with run_label_studio(tmp_path_factory.mktemp("label-studio"), artifacts / "label-studio.log") as running:
        yield running


@pytest.fixture(scope="package")
def browser(server: LabelStudio, artifacts: Path) -> Iterator[chromium.LoggedIn]:
    with chromium.run_browser(server.url, artifacts / "docs" / "connect") as running:
        yield running


@pytest.fixture(scope="package")
def label_studio(server: LabelStudio, browser: chromium.LoggedIn) -> LabelStudio:
    return replace(server, token=browser.token)


@pytest.fixture(scope="package")
def stack(label_studio: LabelStudio, artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Pallas with the bundled checkpoint, as README's `make serve` runs it."""
    folder = tmp_path_factory.mktemp("stack")
    own = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": label_studio.token}
    own |= {"PALLAS_SHOW_ERRORS": "true", "PALLAS_SHOW_SUGGESTIONS": "true", "PALLAS_FIT_MINUTES": "0.3"}
    try:
        with run_stack(folder, "tiny", **own) as running:
            running.wait_for_worker(120)
            yield running
    finally:
        shutil.copy(folder / "stack.log", artifacts / "pallas.log")


@pytest.fixture(scope="package")
def scenes() -> dict[str, Scene]:
    return read_scenes()


@dataclass
class Desk:
    """A fresh project with Pallas connected, and a page of the annotator who works on it."""

    label_studio: LabelStudio
    page: LabellingPage
    config: str
    labels: list[str]
    project: int


@pytest.fixture
def desk(
    request: pytest.FixtureRequest,
    label_studio: LabelStudio,
    stack: Stack,
    browser: chromium.LoggedIn,
    scenes: dict[str, Scene],
    artifacts: Path,
) -> Iterator[Desk]:
    """Our label_config.xml with the scenes' classes as labels."""
    labels = sorted({*kinds(scenes), "object"})
    config = with_labels(SHIPPED, labels)
    project = label_studio.make_project(config, request.node.name[:50])
    label_studio.connect(project, stack.url)
    with ExitStack() as ending:
        page = LabellingPage(ending.enter_context(browser.page()), label_studio.url, artifacts)
        ending.callback(lambda: page.shot(request.node.name))
        yield Desk(label_studio, page, config, labels, project)
