"""The signal before the walltime, in every scheduler's words or by the job's script."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from airavata_provider.schedulers.notice import HABIT_S, before_end, in_script, variables
from airavata_provider.schedulers.registry import scheduler
from airavata_provider.schedulers.request import Container, Inexpressible, Signal
from airavata_provider.schedulers.script import write_script
from tests.unit.schedulers.requests import request

NATIVE = ("slurm",)
BY_SCRIPT = ("fork", "htcondor", "lsf", "pbs", "sge", "torque")
EVERYWHERE = pytest.mark.parametrize("name", [*NATIVE, *BY_SCRIPT])


def script(name: str, **fields: Any) -> str:
    return write_script(scheduler(name), request(**fields), None, "/s/d/.airavata/ajob")


def sent(text: str) -> list[str]:
    """What tells a script of its walltime: SLURM's directive, and how long the script itself sleeps before."""
    lines = [line.strip() for line in text.splitlines()]
    sleeps = [lines[number - 1] for number, line in enumerate(lines) if line == "kill -s USR1 $$"]
    return [line for line in lines if "--signal" in line] + sleeps


@EVERYWHERE
def test_it_is_sent_on_every_scheduler(name: str) -> None:
    asked: dict[str, Any] = {"walltime_s": 3600, "signal_before_end_s": 300, "signal": Signal.TERM}
    assert scheduler(name).unsupported(request(**asked)) == {}
    text = script(name, **asked)
    assert sent(text) == (["#SBATCH --signal=B:USR1@300"] if name in NATIVE else ["sleep 3300 & wait $!"])
    assert "airavata_signal=TERM airavata_bit=14 airavata_before=300 airavata_asked=yes airavata_spared=\n" in text


def test_a_job_so_short_that_slurm_would_be_early_is_told_by_its_script() -> None:
    assert sent(script("slurm", walltime_s=161, signal_before_end_s=100)) == ["#SBATCH --signal=B:USR1@100"]
    assert sent(script("slurm", walltime_s=160, signal_before_end_s=100)) == ["sleep 60 & wait $!"]


@EVERYWHERE
@pytest.mark.parametrize(
    "asked",
    [{"signal_before_end_s": 60}, {"signal_before_end_s": 900, "signal": Signal.HUP}, {"signal": Signal.TERM}],
)
def test_a_job_that_has_not_begun_by_then_is_told(name: str, asked: dict[str, Any]) -> None:
    told = scheduler(name).unsupported(request(walltime_s=60, **asked))
    assert told.keys() == asked.keys()
    assert all("has not begun" in why for why in told.values())
    assert sent(script(name, walltime_s=60, **asked)) == []


@EVERYWHERE
def test_without_a_walltime_only_a_scheduler_knows_when(name: str) -> None:
    asked: dict[str, Any] = {"signal_before_end_s": 120, "signal": Signal.USR2}
    told = scheduler(name).unsupported(request(**asked))
    if name in NATIVE:
        assert told == {}
        assert sent(script(name, **asked)) == ["#SBATCH --signal=B:USR1@120"]
    else:
        assert told.keys() == asked.keys()
        assert all("no walltime" in why for why in told.values())
        assert sent(script(name, **asked)) == []


@EVERYWHERE
@pytest.mark.parametrize("walltime_s", [None, 30, 3600])
def test_never_is_a_word_of_all(name: str, walltime_s: int | None) -> None:
    asked: dict[str, Any] = {"walltime_s": walltime_s, "signal_before_end_s": 0, "signal": Signal.TERM}
    assert scheduler(name).unsupported(request(**asked)) == {}
    assert sent(script(name, **asked)) == []


@EVERYWHERE
def test_what_nobody_asked_for_is_not_missed(name: str) -> None:
    for walltime_s in (None, 1, HABIT_S, 3600):
        assert scheduler(name).unsupported(request(walltime_s=walltime_s)) == {}
    assert sent(script(name, walltime_s=1)) == []
    assert len(sent(script(name, walltime_s=3600))) == 1


def test_seconds_from_the_end_and_from_the_begin() -> None:
    asked = request(walltime_s=100, signal_before_end_s=99)
    assert (before_end(asked), in_script(asked)) == (99, 1)
    assert before_end(request()) == HABIT_S
    assert in_script(request()) is None
    late = request(walltime_s=100, signal_before_end_s=100)
    assert in_script(late) is None
    with pytest.raises(Inexpressible):
        before_end(late)


@pytest.mark.parametrize("each", Signal)
def test_the_place_of_a_signal_in_a_mask(each: Signal) -> None:
    number = signal.Signals[f"SIG{each}"]
    assert f"airavata_signal={each} airavata_bit={number - 1} " in variables(request(signal=each))


def test_what_passes_signals_on_is_spared_by_those_who_say_nothing() -> None:
    for run in ({"launcher": ("srun",)}, {"container": Container("i.sif")}):
        assert variables(request(**run)).endswith("airavata_asked= airavata_spared=yes")
        assert variables(request(**run, signal_before_end_s=0)).endswith("airavata_asked= airavata_spared=yes")
        assert variables(request(**run, signal_before_end_s=60)).endswith("airavata_asked=yes airavata_spared=")
    assert variables(request()).endswith("airavata_asked= airavata_spared=")
