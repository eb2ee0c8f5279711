"""Every command, config, setting and link in the docs is tried.

Commands that are quick run; those that take long, need a network or change the machine are read by their own parsers,
and LEFT says of each why it does not run here and what runs it instead.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from backend.__main__ import parser as backend_parser
from backend.labeling.roles import read_roles
from backend.run.check import check
from backend.settings import Settings
from model.__main__ import main as run_model
from model.__main__ import parser as model_parser
from tests import videos
from tests.conftest import PICTURES
from tests.docs.reading import DOCS, ROOT, Command, blocks, commands
from tests.http.stack import SHIPPED, Stack

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))

LEFT = {
    "backend serve": "runs until it is stopped: tests/http start it by the hundred",
    "backend front": "runs until it is stopped: tests/http/test_fleet.py",
    "backend worker": "runs until it is stopped; with --drain: tests/http/test_fleet.py",
    "backend fit": "takes minutes: tests/tuning",
    "backend models": "lists versions: tests/tuning",
    "backend promote": "wants a version: tests/tuning",
    "backend rollback": "wants a version: tests/tuning",
    "backend webhooks": "changes a Label Studio: tests/e2e/test_password.py",
    "backend bulk": "needs a Label Studio or minutes: tests/bulk",
    "backend export": "needs tasks and their pictures: tests/export",
    "backend learn": "needs a Label Studio: tests/bulk/test_learn.py",
    "backend order": "changes a Label Studio: tests/bulk/test_order.py",
    "model fetch": "downloads gigabytes",
    "model try": "with the released weights: tests/model/test_trial.py",
    "tests.house": "writes the picture: tests/test_house.py draws it and compares",
    "tiny": "hours: tests/tiny",
    "tiny.evaluation": "minutes: tests/tiny",
    "benchmarks": "minutes, and figures instead of a verdict",
    "pytest": "these tests",
    "make": "sets a machine up: .ci/check.sh runs it",
    "docker": "needs a Docker daemon: tests/test_deployment.py reads the file",
    "label-studio": "another program: tests/e2e and tests/runner start it",
    "pip": "needs PyPI",
    "venv": "makes an environment: tests/e2e/setup.sh",
    "export": "sets variables",
    "echo": "writes .env",
}
"""Why a command is read and not run."""


def words_of(command: Command) -> list[str]:
    """Its words, without variables in front and with python as one word."""
    words = shlex.split(command.text, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


def known_settings(names: set[str]) -> None:
    elsewhere = {"PALLAS_SKIP_E2E", "PALLAS_PARENT", "PALLAS_TEST_DEVICE"}
    fields = {f"PALLAS_{name.upper()}" for name in Settings.model_fields} | elsewhere
    assert names <= fields, names - fields


def read_python(words: list[str]) -> str:
    """Checks `python -m … …` by the module's own parser; gives the key of LEFT, or "" if it is quick enough to run."""
    assert words[1] == "-m", words
    module, arguments = words[2], words[3:]
    if module == "backend":
        backend_parser().parse_args(_filled(arguments))
        return "" if arguments[0] in ("check", "review", "health") else f"backend {arguments[0]}"
    if module == "model":
        model_parser().parse_args(_filled(arguments))
        released = arguments[0] == "fetch" or (arguments[0] == "try" and arguments[1].startswith("PAM"))
        return f"model {arguments[0]}" if released else ""
    assert importlib.util.find_spec(module if module != "tiny" else "tiny.__main__"), module
    return module.split(".")[0] if module.startswith("benchmarks") else module


def _filled(arguments: list[str]) -> list[str]:
    # `webhooks` and `health` are listed in a table without what they are about
    return {"webhooks": ["webhooks", "URL"], "health": ["health", "front"]}.get(" ".join(arguments), arguments)


def read_make(words: list[str]) -> str:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(words[1:]) - {word for word in words if "=" in word} <= targets, words
    return "make"


def read_docker(words: list[str]) -> str:
    if words[1] == "build" or words[1].startswith("build"):
        return "docker"
    assert words[1] == "compose", words
    profiles = {profile for service in COMPOSE["services"].values() for profile in service.get("profiles", ())}
    rest = words[2:]
    while rest and rest[0] == "--profile":
        assert rest[1] in profiles, words
        rest = rest[2:]
    assert rest[0] in ("up", "ps", "config", "build", "down"), words
    services = [word for word in rest[1:] if not word.startswith("-") and "=" not in word]
    assert set(services) <= set(COMPOSE["services"]), words
    return "docker"


READERS: dict[str, Callable[[list[str]], str]] = {"make": read_make, "docker": read_docker}


def read(command: Command) -> tuple[list[str], str]:
    """A command's words and why it is not run; "" if it is."""
    words = words_of(command)
    known_settings(set(re.findall(r"\bPALLAS_\w+", command.text)))
    if not words:
        return words, "export"
    program = Path(words[0]).name
    if program.startswith("python"):
        return words, read_python(words)
    if program in READERS:
        return words, READERS[program](words)
    return words, "label-studio" if program.startswith("label-studio") else program


COMMANDS = commands()


def test_there_are_some() -> None:
    assert len(COMMANDS) >= 40 and len(blocks("xml")) >= 4


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{command.file}: {command.text}")
def test_commands_can_be_typed(command: Command) -> None:
    _, why = read(command)
    assert why == "" or why in LEFT, why


QUICK = [command for command in COMMANDS if read(command)[1] == ""]


@pytest.mark.parametrize("text", sorted({" ".join(words_of(command)[1:]) for command in QUICK}))
def test_quick_commands_do_what_they_say(
    text: str, stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photo.jpg").write_bytes((PICTURES / "coffee.jpg").read_bytes())
    _mask(tmp_path / "mask.png")
    videos.write(tmp_path / "clip.mp4", [videos.picture(i, 320, 240) for i in range(16)])
    words = shlex.split(text)
    if words[1] == "model" and words[2] != "try":
        # in this process, which has torch already; `try` is one that is typed
        monkeypatch.chdir(tmp_path)
        assert run_model(words[2:]) == 0
    else:
        words = [*words[:2], *_filled(words[2:])]
        own = {"PYTHONPATH": str(ROOT), "PALLAS_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        own |= {"PALLAS_STATE_DIR": str(stack.settings.state_dir), "PALLAS_PORT": stack.url.rsplit(":", 1)[1]}
        if words[1:] == ["backend", "check", "--settings"]:
            # the same and a table more: the one without it is typed
            for name, value in own.items():
                monkeypatch.setenv(name, value)
            assert check(Settings(), Console(), backend_parser().parse_args(words[2:]).settings) == 0
        else:
            environment = os.environ | own
            done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, timeout=120, check=False)
            assert done.returncode == 0
    said = capfd.readouterr()
    assert "Traceback" not in said.err, said.err
    if "--out" in words:
        assert (tmp_path / words[words.index("--out") + 1]).stat().st_size > 0


def _mask(file: Path) -> None:
    from PIL import Image, ImageDraw

    with Image.open(PICTURES / "coffee.jpg") as picture:
        mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).ellipse((200, 100, 400, 300), fill=255)
    mask.save(file)


@pytest.mark.parametrize(("file", "config"), blocks("xml"))
def test_configs_can_be_pasted(file: str, config: str) -> None:
    # lines that go into a config, and whole ones
    roles = read_roles(config if config.startswith("<View") else SHIPPED.replace("</View>", f"{config}</View>"))
    assert roles.controls, file


@pytest.mark.parametrize("file", sorted({file for file, _ in blocks("python")}))
def test_python_in_the_docs_runs(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's blocks one after another, as somebody types them who has a picture, a mask and a clip."""
    from PIL import Image

    image = Image.open(PICTURES / "coffee.jpg").convert("RGB")
    _mask(tmp_path / "mask.png")
    videos.write(tmp_path / "clip.mp4", [videos.picture(i, 320, 240) for i in range(16)])
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"image": image, "mask": np.asarray(Image.open("mask.png")) > 0}
    for code in [code for where, code in blocks("python") if where == file]:
        # the small model in place of the one that would be downloaded
        exec(compile(code.replace('"PAM-3B"', '"tiny"'), file, "exec"), names)
    assert names["result"].regions[0].mask.any()


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_settings_that_are_named_exist(file: Path) -> None:
    named = set(re.findall(r"\bPALLAS_[A-Z][A-Z_]*[A-Z]\b", file.read_text("utf-8")))
    known_settings(named)


@pytest.mark.parametrize("file", DOCS, ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        where = (file.parent / path).resolve() if path else file
        assert where.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", where.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_the_modules_that_the_house_names_are_there() -> None:
    text = (ROOT / "docs" / "development.md").read_text("utf-8")
    for name in re.findall(r"`([a-z_]+\.py)`", text):
        assert any(found for room in ("backend", "model", "tiny", "tests") for found in (ROOT / room).rglob(name)), name
