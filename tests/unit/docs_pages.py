"""The pages of the documentation: their fenced blocks, their tables, and their generated parts.

Run as a module, this writes the generated parts (between ``<!-- generated: NAME -->`` and ``<!-- end -->``) anew.
"""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import pytest

from airavata_provider.errors import SubmissionUncertain
from airavata_provider.models.job import Job
from airavata_provider.settings import Settings

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")])
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())

_FENCE = re.compile(r"^```(\w*)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its first line's number, its language, what follows that, its text."""

    line: int
    language: str
    info: str
    text: str


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


@cache
def blocks(page: Path) -> tuple[Block, ...]:
    text = page.read_text()
    return tuple(
        Block(text[: found.start()].count("\n") + 2, found[1], found[2].strip(), found[3])
        for found in _FENCE.finditer(text)
    )


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def of_language(language: str) -> list[tuple[Path, Block]]:
    return [(page, block) for page in PAGES for block in blocks(page) if block.language == language]


def rows(name: str) -> tuple[list[list[str]], Path]:
    """Cells of the rows of the table of that name, and its page."""
    for page in PAGES:
        _, found, rest = page.read_text().partition(f"<!-- table: {name} -->\n")
        if found:
            lines = rest.split("\n\n", 1)[0].splitlines()[2:]
            return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines], page
    raise AssertionError(f"no table {name}")


def settings_table() -> str:
    lines = ["| option | default | meaning |", "| --- | --- | --- |"]
    for field in fields(Settings):
        default = f"{field.default:g}" if isinstance(field.default, int | float) else "(derived)"
        meaning = field.metadata["description"].replace("``", "`").replace("|", "\\|")
        least = f" At least {field.metadata['least']:g}." if field.metadata["least"] is not None else ""
        example = f" Example: `{field.metadata['example']}`." if field.metadata["example"] else ""
        sensitive = " Sensitive." if field.metadata["sensitive"] else ""
        shown = default if field.default not in ((), "") or "Default:" in meaning else "none"
        lines.append(f"| `{field.name}` | {shown} | {meaning}{least}{example}{sensitive} |")
    return "\n".join(lines)


def uncertain_advice() -> str:
    """What :func:`submit` tells a person, by letting it meet a host that gives no answers."""
    from airavata_provider.jobs.submission import submit
    from airavata_provider.schedulers.request import JobRequest
    from airavata_provider.schedulers.slurm import Slurm
    from airavata_provider.ssh.command import RawResult
    from airavata_provider.testing import ScriptedHost

    class Silent:
        async def submitted(self, name: str, native_id: str, at: object, element_id: object = None) -> None: ...
        async def refused(self, name: str, reason: str) -> None: ...
        async def uncertain(self, name: str, reason: str) -> None: ...

    host = ScriptedHost(lambda command, data: RawResult(0, b"", b""))
    job = Job("JOB", "dag", "run", "submit", -1, 1, resource="cluster", directory="DIRECTORY")
    request = JobRequest(name="JOB", directory="DIRECTORY", executable="true")
    work = submit(host, Slurm(), request, store=Silent(), job=job, deadline_s=0)
    with pytest.raises(SubmissionUncertain) as caught:
        asyncio.run(work)
    return f"> {caught.value.advice}"


def state_table() -> str:
    from airavata_provider.jobs.state import markdown_table

    return markdown_table().strip()


def state_diagram() -> str:
    from airavata_provider.jobs.state import mermaid_diagram

    return f"```mermaid\n{mermaid_diagram()}```"


def layers() -> str:
    contract = PYPROJECT["tool"]["importlinter"]["contracts"][0]
    assert contract["type"] == "layers"
    return "\n".join(["```", *(line.replace("airavata_provider.", "") for line in contract["layers"]), "```"])


def forbidden() -> str:
    """The other contracts, one line each."""
    lines = []
    for contract in PYPROJECT["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "forbidden":
            sources = (each.removeprefix("airavata_provider.") for each in contract["source_modules"])
            lines.append(f"- {contract['name']}: none in {', '.join(f'`{each}`' for each in sources)}.")
    return "\n".join(lines)


GENERATED: Mapping[str, Callable[[], str]] = {
    "settings": settings_table,
    "uncertain": uncertain_advice,
    "job state table": state_table,
    "job state diagram": state_diagram,
    "layers": layers,
    "forbidden": forbidden,
}


def generated(text: str) -> str:
    """A page's text with its generated parts as they should be."""

    def put(found: re.Match[str]) -> str:
        return f"<!-- generated: {found[1]} -->\n{GENERATED[found[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: ([\w ]+) -->\n.*?<!-- end -->", put, text, flags=re.DOTALL)


if __name__ == "__main__":
    for each in PAGES:
        each.write_text(generated(each.read_text()))
