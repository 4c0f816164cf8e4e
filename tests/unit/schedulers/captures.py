"""Captured output of real schedulers, and frames around it as a host's shell puts them."""

from __future__ import annotations

from pathlib import Path

from airavata_provider.schedulers.base import CommandResult

FOLDER = Path(__file__).resolve().parents[2] / "fixtures" / "schedulers"
SLURM = "slurm-22.05.8"


def capture(name: str) -> str:
    """A captured stream, by its file's name below ``tests/fixtures/schedulers``."""
    return (FOLDER / name).read_text()


def framed(label: str, stdout: str = "", *, status: int = 0, errors: str = "") -> str:
    """What :func:`airavata_provider.schedulers.frame.frame`'s shell text writes for such a command."""
    words = errors.replace("\n", " ")
    return f"AIRAVATA-BEGIN {label}\n{stdout}\nAIRAVATA-END {label} {status} {words}\n"


def answer(*parts: str, noise: str = "") -> CommandResult:
    """A whole command's result from its frames."""
    return CommandResult(0, noise + "".join(parts), noise)
