"""The pages of the documentation: their fenced blocks, their tables, and their generated parts.

Run as a module, this writes the generated parts (between ``<!-- generated: NAME -->`` and ``<!-- end -->``) anew.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import SubmissionUncertain
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import read_experiment, resolve
from airavata_provider.models.job import Job
from airavata_provider.models.outcome import ADVICE, Outcome
from airavata_provider.schedulers.base import Scheduler
from airavata_provider.schedulers.notice import BY_SCRIPT
from airavata_provider.schedulers.record import control_directory
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.schedulers.request import (
    BY_SCHEDULER,
    Array,
    Dependency,
    Element,
    JobRequest,
    MailEvent,
    Signal,
)
from airavata_provider.schedulers.script import write_script
from airavata_provider.settings import Settings
from airavata_provider.tasks.job_request import job_fields
from airavata_provider.tasks.submit_parameters import SubmitParameters, request_of

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


def outcomes() -> str:
    lines = [f"| `{outcome}` | {ADVICE.get(outcome, 'nothing')} |" for outcome in Outcome]
    return "\n".join(["| outcome | what a user can do |", "| --- | --- |", *lines])


def layers() -> str:
    contract = PYPROJECT["tool"]["importlinter"]["contracts"][0]
    assert contract["type"] == "layers"
    return "\n".join(["```", *(line.replace("airavata_provider.", "") for line in contract["layers"]), "```"])


def forbidden() -> str:
    """The other contracts, one line each."""
    lines = []
    for contract in PYPROJECT["tool"]["importlinter"]["contracts"]:
        if contract["type"] == "forbidden":
            allowed = [each.partition(" -> ")[0] for each in contract.get("ignore_imports", ())]
            how, modules = ("nowhere but in", allowed) if allowed else ("none in", contract["source_modules"])
            named = dict.fromkeys(each.removeprefix("airavata_provider.").rstrip(".*") for each in modules)
            lines.append(f"- {contract['name']}: {how} {', '.join(f'`{each}`' for each in named)}.")
    return "\n".join(lines)


SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "queue": {"queue": "normal"},
    "nodes": {"nodes": 2},
    "tasks": {"tasks": 8},
    "tasks_per_node": {"tasks_per_node": 4},
    "cpus_per_task": {"cpus_per_task": 2},
    "memory_mb": {"memory_mb": 4000},
    "gpus": {"gpus": 1},
    "gpu_type": {"gpu_type": "a100", "gpus": 1},
    "walltime_s": {"walltime_s": 5400},
    "account": {"account": "chem42"},
    "qos": {"qos": "high"},
    "reservation": {"reservation": "workshop"},
    "exclusive": {"exclusive": True},
    "constraint": {"constraint": "fast"},
    "licenses": {"licenses": ("abaqus:2",)},
    "array": {"array": Array(tuple(Element(index, "/scratch") for index in range(10)), throttle=4)},
    "after": {"after": (Dependency("12"),)},
    "mail_to": {"mail_to": "ada@example.org", "mail_events": frozenset({MailEvent.END, MailEvent.FAIL})},
    "mail_events": {"mail_events": frozenset({MailEvent.END, MailEvent.FAIL})},
    "export": {"export": ("LANG",)},
    "signal_before_end_s": {"signal_before_end_s": 300, "walltime_s": 5400},
    "signal": {"signal": Signal.TERM, "signal_before_end_s": 300, "walltime_s": 5400},
}
"""What is asked for, to show what a scheduler makes of it: the field itself, and what it makes no sense without."""


SITE_WORDS: Mapping[str, str] = {
    "parallel_environment": "mpi",
    "gpus": "gpu",
    "gpu_type": "gpu_type",
    "exclusive": "exclusive",
}
"""The names that are the site's own, as the page says."""


def script_options() -> str:
    """What each of the project's own schedulers makes of each field that only a scheduler can see to."""
    assert SAMPLES.keys() == BY_SCHEDULER
    names = sorted(PYPROJECT["project"]["entry-points"]["airavata.schedulers"])
    heads = [f"`{name}`" + (f" (`{prefix}`)" if (prefix := scheduler(name).prefix) else "") for name in names]
    lines = [f"| option | asked for | {' | '.join(heads)} |", "| --- | --- |" + " --- |" * len(names)]
    for option, sample in SAMPLES.items():
        cells = [_said(scheduler(name), option, sample) for name in names]
        lines.append(f"| `{option}` | {_shown(sample[option])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, Array):
        return f"{len(value.elements)} elements, {value.throttle} at a time"
    if isinstance(value, tuple | frozenset):
        return ", ".join(sorted(f"`{getattr(each, 'native_id', each)}`" for each in value))
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _said(adaptor: Scheduler, option: str, sample: Mapping[str, Any]) -> str:
    request = JobRequest("job", "/scratch", "true", site_words=SITE_WORDS, **sample)
    if option in adaptor.unsupported(request):
        return "no"
    plain = replace(request, **{option: getattr(JobRequest("job", "/scratch", "true"), option)})
    entries = [each for each in adaptor.entries if option in each.fields]
    if BY_SCRIPT in entries:
        return "by the job's script"
    before = {line for each in entries for line in each.lines(plain)}
    lines = [line for each in entries for line in each.lines(request) if line not in before]
    return "<br>".join("`" + line.replace("|", "\\|") + "`" for line in lines) or "without a directive"


def script_example() -> str:
    """Directives and program of the job script that the page's own catalog and experiment make."""
    page = PROJECT / "docs" / "options.md"
    text = [block.text for block in blocks(page) if block.language == "yaml"]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("catalog/site.yaml", "experiment.yaml")]
        for path, each in zip(paths, text, strict=True):
            path.parent.mkdir(exist_ok=True)
            path.write_text(each)
        catalog = load_catalog([paths[0].parent])
        resolved = resolve(read_experiment(paths[1], catalog), catalog)
    name = "a5e0k2vjq7rm3xb"
    directory = f"{resolved.resource.scratch}/folding-1"
    parameters = SubmitParameters.model_validate(job_fields(resolved))
    request = request_of(parameters, resolved.resource, name=name, directory=directory, comment="hpc_batch/folding-1")
    script = write_script(scheduler(resolved.resource.scheduler), request, None, control_directory(directory, name))
    head, _, rest = script.partition("\n\n")
    (program,) = [line.strip() for line in rest.splitlines() if "/images/" in line]
    return f"```bash\n{head}\n…\n{program}\n```"


def imaginary_scheduler() -> str:
    """The example of a scheduler, which lives in a package outside the provider."""
    text = (PROJECT / "tests" / "packages" / "imaginary" / "imaginary_scheduler.py").read_text()
    return f"```python run\n{text}```"


GENERATED: Mapping[str, Callable[[], str]] = {
    "script options": script_options,
    "script example": script_example,
    "imaginary scheduler": imaginary_scheduler,
    "settings": settings_table,
    "uncertain": uncertain_advice,
    "job state table": state_table,
    "job state diagram": state_diagram,
    "outcomes": outcomes,
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
