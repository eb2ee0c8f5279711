from __future__ import annotations

import logging
import sysconfig
from pathlib import Path

import pytest

from model.compute import compiler


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs and one of headers that are all there are, with a compiler and Python's headers."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_paths", lambda _: {"include": str(tmp_path)})
    (tmp_path / "gcc").touch(mode=0o755)
    (tmp_path / "Python.h").touch()
    return tmp_path


def test_nothing_is_missing(machine: Path) -> None:
    assert compiler.lacks() == ""


def test_a_compiler_is_missing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "gcc").unlink()
    assert "apt install gcc" in compiler.lacks()
    monkeypatch.setenv("CC", "/opt/cc")
    assert compiler.lacks() == ""


def test_headers_are_missing(machine: Path) -> None:
    (machine / "Python.h").unlink()
    assert "apt install python3-dev" in compiler.lacks()


def test_what_a_start_takes_long_for(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        compiler.begin("it")
    assert caplog.messages == ["compiling it: a minute or more at a machine's first start, seconds afterwards"]


def test_why_something_is_not_compiled(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compiler.warn("it is", RuntimeError("backend='inductor' raised:\nRuntimeError: no driver\n\nSet more"))
        (machine / "gcc").unlink()
        compiler.warn("it is", RuntimeError())
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "it is not compiled (RuntimeError: no driver): it runs as it is"
    assert said[1].startswith("it is not compiled (RuntimeError): it runs as it is; there is no C compiler")
