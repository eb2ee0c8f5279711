"""What the docs tell people to type and to paste."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_SETTING = r"[A-Z][A-Z_]*=\S*"
_PROGRAM = re.compile(
    rf"((export )?{_SETTING} )*(export {_SETTING}|\S*python3?|make|docker|pip|echo|label-studio\S*)( |$)"
)
# what follows a command on its line is an explanation
_REMARK = re.compile(r"\s{2,}.*$|\s+#.*$")


@dataclass(frozen=True)
class Command:
    """A command line, where it stands, without what is said about it."""

    file: str
    text: str


def commands() -> list[Command]:
    """All of them: indented lines, and code in sentences that begins like a command."""
    found: dict[Command, None] = {}
    for file in DOCS:
        text = _without_fences(file.read_text("utf-8"))
        lines = [match.group(1) for match in re.finditer(r"^(?: {4,}|\t)(\S.*)$", text, re.MULTILINE)]
        inline = [match.group(1) for match in re.finditer(r"`([^`\n]+)`", text) if " " in match.group(1)]
        for line in (*lines, *inline):
            if _PROGRAM.match(line):
                found[Command(str(file.relative_to(ROOT)), _REMARK.sub("", line.strip()))] = None
    return list(found)


def blocks(language: str) -> list[tuple[str, str]]:
    """Fenced code of a language: (file, code)."""
    return [
        (str(file.relative_to(ROOT)), code)
        for file in DOCS
        for code in re.findall(rf"^```{language}\n(.*?)^```", file.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    ]


def _without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
