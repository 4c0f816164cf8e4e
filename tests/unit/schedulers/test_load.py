"""How full queues are, in every scheduler's words; which answers are captures,
``tests/fixtures/schedulers/README.md`` tells.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.errors import AnswerUnreadable
from airavata_provider.schedulers import counting, htcondor_queries, sge_states, slurm_states
from airavata_provider.schedulers.base import CommandResult
from airavata_provider.schedulers.counting import COUNTED
from airavata_provider.schedulers.fork import Fork
from airavata_provider.schedulers.frame import SETUP, frame
from airavata_provider.schedulers.htcondor import HTCondor
from airavata_provider.schedulers.load import QueueLoad, added, together
from airavata_provider.schedulers.lsf import Lsf
from airavata_provider.schedulers.pbs import PBS
from airavata_provider.schedulers.sge import Sge
from airavata_provider.schedulers.slurm import Slurm
from airavata_provider.schedulers.torque import Torque
from tests.unit.schedulers.captures import SLURM, answer, capture, framed

slurm, sge, lsf, pbs, torque, condor = Slurm(), Sge(), Lsf(), PBS(), Torque(), HTCondor()


def awk(program: str, text: str, separator: str = " ") -> str:
    """What an awk program makes of a text."""
    command = ["awk", "-F", separator, program]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


# --- in words


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (QueueLoad(120, 35, 512, 480), "120 jobs of everybody wait, 35 run, 480 of 512 CPUs are busy"),
        (QueueLoad(120, 35), "120 jobs of everybody wait, 35 run"),
        (QueueLoad(0, busy=9), "0 jobs of everybody wait, 9 CPUs are busy"),
        (QueueLoad(cpus=0, busy=0), "no CPU is up"),
        (QueueLoad(5, 1, closed=True), "5 jobs of everybody wait, 1 run, it is closed"),
        (QueueLoad(), ""),
    ],
)
def test_a_load_reads_well(load: QueueLoad, words: str) -> None:
    assert str(load) == words


# --- several queues


def test_several_queues_are_one() -> None:
    one, other, dark = QueueLoad(1, 2, 3, 4), QueueLoad(10, 20, 30, 40), QueueLoad(7, 7)
    shut, down = QueueLoad(9, 9, closed=True), QueueLoad(0, 0, 0, 0)
    assert together([]) is None
    assert together([one, other]) == QueueLoad(11, 22, 33, 44)
    assert together([one, dark]) == QueueLoad(8, 9)
    assert together([one, shut, down]) == one  # it starts where it can
    assert together([shut, down]) == QueueLoad(9, 9, closed=True)
    assert added([one, shut]) == QueueLoad(10, 11, closed=True)


# --- counting


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 99), st.integers(1, 9)), min_size=1, max_size=5))
def test_elements_are_counted_as_the_range_says(spans: list[tuple[int, int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}:{step}" if more else str(first) for first, more, step in spans)
    number = sum(len(range(first, first + more + 1, step)) for first, more, step in spans)
    program = f"{counting.ELEMENTS}{{print elements($1)}}"
    assert awk(program, f"{text}\n{text}%2]\n").split() == [str(number)] * 2


def test_a_count_has_the_command_s_own_status_and_words() -> None:
    count = counting.counted(
        "sh -c 'echo a; echo a b; echo oh >&2; exit 3'", f'{{n++}}END{{print n;print "{COUNTED}"}}'
    )
    done = subprocess.run(
        ["sh", "-s"], input=f"{SETUP}\n{frame('x', count)}", capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["AIRAVATA-BEGIN x", "2", COUNTED, "", "AIRAVATA-END x 3 oh"]


# --- SLURM


def cluster(cpus: str, jobs: str, **jobs_frame: object) -> CommandResult:
    """An answer, its jobs counted."""
    counted = awk(slurm_states.COUNT, jobs, "|")
    return answer(framed("cpus", cpus), framed("jobs", counted, **jobs_frame), noise="Welcome!\ndebug|9|9\n")  # type: ignore[arg-type]


def test_slurm_captured() -> None:
    result = cluster(capture(f"{SLURM}-sinfo-load.out"), capture(f"{SLURM}-squeue-load.out"))
    assert slurm.parse_load(result, ["debug", "long", "", "none"]) == {
        "debug": QueueLoad(waiting=6, running=2, cpus=64, busy=64),
        "long": QueueLoad(waiting=1, running=0, cpus=64, busy=64),
        "": QueueLoad(waiting=6, running=2, cpus=64, busy=64),
    }


def test_slurm_counts_what_waits_for_room() -> None:
    jobs = (
        "fast|PD|Priority|1\nfast|PD|Resources|2_[0-9%4]\nfast|PD|JobArrayTaskLimit|3_[5-8]\nfast|PD|JobHeldUser|4\n"
        "fast|PD|Dependency|5\nfast|PD|BeginTime|6\nfast,slow|PD|Priority|7\nfast|R|None|8\nfast|R|None|2_11\n"
    )
    result = cluster("fast|up|3/5/8/16\nfast|up|1/0/0/1\nslow*|down|0/99/0/99\n", jobs)
    assert slurm.parse_load(result, ["fast", "slow", ""]) == {
        "fast": QueueLoad(waiting=6, running=2, cpus=9, busy=4),
        "slow": QueueLoad(waiting=1, running=0, cpus=0, busy=0),
        "": QueueLoad(waiting=1, running=0, cpus=0, busy=0),
    }


@pytest.mark.parametrize(
    "reason",
    [
        "JobHeldAdmin",
        "JobHoldMaxRequeue",
        "launch_failed_requeued_held",
        "launch failed requeued held",
        "job requeued in held state",
        "ReservationDeleted",
    ],
)
def test_slurm_jobs_that_are_held_do_not_wait_for_room(reason: str) -> None:
    result = cluster("fast*|up|8/0/0/8\n", f"fast|PD|{reason}|1\nfast|PD|Resources|2\n")
    assert slurm.parse_load(result, ["fast"])["fast"].waiting == 1


def test_slurm_several_partitions_are_one() -> None:
    result = cluster("fast*|up|3/5/0/8\nslow|up|4/0/0/4\ngone|down|0/9/0/9\n", "fast|PD|Priority|1\nslow|R|None|2\n")
    assert slurm.parse_load(result, ["fast,slow", "fast,gone", "gone,none", "none"]) == {
        "fast,slow": QueueLoad(waiting=1, running=1, cpus=12, busy=7),
        "fast,gone": QueueLoad(waiting=1, running=0, cpus=8, busy=3),
        "gone,none": QueueLoad(waiting=0, running=0, cpus=0, busy=0),
    }


def test_slurm_half_an_answer() -> None:
    """A count that is missing is not none, and neither is one of a ``squeue`` that timed out with status 0."""
    timed_out = "slurm_load_jobs error: Socket timed out on send/recv operation"
    only_cpus = cluster("fast*|up|3/5/0/8\n", "", errors=timed_out)
    assert slurm.parse_load(only_cpus, ["fast", ""]) == dict.fromkeys(["fast", ""], QueueLoad(cpus=8, busy=3))
    uncounted = answer(framed("cpus", "fast*|up|3/5/0/8"), framed("jobs", "fast|1|1"))
    assert slurm.parse_load(uncounted, ["fast"]) == {"fast": QueueLoad(cpus=8, busy=3)}
    only_jobs = answer(framed("cpus", status=124), framed("jobs", f"fast|7|8\n{COUNTED}"))
    assert slurm.parse_load(only_jobs, ["fast", "idle", ""]) == {
        "fast": QueueLoad(waiting=8, running=7),
        "idle": QueueLoad(waiting=0, running=0),
    }
    with pytest.raises(AnswerUnreadable, match=r"sinfo: no answer in time; squeue: slurm_load_jobs error"):
        slurm.parse_load(answer(framed("cpus", status=124), framed("jobs", errors=timed_out)), ["fast"])


# --- Grid Engine


def test_grid_engine_captured() -> None:
    waiting = awk(sge_states.WAITING, capture("sge-8.1.9-qstat-waiting.xml"))
    result = answer(framed("slots", capture("sge-8.1.9-qstat-queues.xml")), framed("waiting", waiting))
    assert sge.parse_load(result, ["all.q", "long.q@node", "", "none"]) == {
        "all.q": QueueLoad(waiting=4, cpus=64, busy=63),
        "long.q@node": QueueLoad(waiting=4, cpus=64, busy=64),
        "": QueueLoad(waiting=4, cpus=128, busy=127),
    }


def test_grid_engine_several_queues_are_one() -> None:
    waiting = awk(sge_states.WAITING, capture("sge-8.1.9-qstat-waiting.xml"))
    result = answer(framed("slots", capture("sge-8.1.9-qstat-queues.xml")), framed("waiting", waiting))
    every, queues = QueueLoad(waiting=4, cpus=128, busy=127), ["all.q,long.q", "*@@fast", "@@fast", "[al]*.q"]
    assert sge.parse_load(result, [*queues, "long.*@node", "all.q|long.q"]) == {
        **dict.fromkeys(queues, every),
        "long.*@node": QueueLoad(waiting=4, cpus=64, busy=64),
    }


def test_grid_engine_half_an_answer() -> None:
    slots = framed("slots", capture("sge-8.1.9-qstat-queues.xml"))
    cut = awk(sge_states.WAITING, '<?xml version="1.0"?>\n<job_info><job_info><job_list><state>qw</state></job_list>')
    for waiting in (framed("waiting", cut), framed("waiting", f"3\n{COUNTED}", status=124), framed("waiting")):
        load = sge.parse_load(answer(slots, waiting), ["all.q"])["all.q"]
        assert (load.waiting, load.cpus, load.busy) == (None, 64, 63)
    with pytest.raises(AnswerUnreadable):
        sge.parse_load(answer(framed("slots", status=1, errors="error: commlib error"), framed("waiting")), ["all.q"])


def test_grid_engine_nobody_waits() -> None:
    assert awk(sge_states.WAITING, capture("sge-8.1.9-qstat-empty.xml")) == f"0\n{COUNTED}\n"


# --- PBS and Torque


def test_pbs() -> None:
    result = answer(framed("queues", capture("openpbs-qstat-queues.out")), noise="Welcome!\nQueue: normal\n")
    assert pbs.parse_load(result, ["normal", "normal-exec", "normal-large-exec", "", "none"]) == {
        "normal": QueueLoad(waiting=110, running=42),  # and what it leads to
        "normal-exec": QueueLoad(waiting=100, running=40),
        "normal-large-exec": QueueLoad(waiting=3, running=2),
        "": QueueLoad(waiting=110, running=42),
    }


def queue(name: str, waiting: int, running: int, *, enabled: bool = True, started: bool = True, to: str = "") -> str:
    """A queue in the words of ``qstat -Q -f``."""
    route = f"    route_destinations = {to}\n" if to else ""
    return (
        f"Queue: {name}\n    state_count = Queued:{waiting} Running:{running}\n{route}"
        f"    enabled = {enabled}\n    started = {started}\n\n"
    )


def test_pbs_a_queue_that_is_closed_says_so() -> None:
    queues = (
        queue("good", 9, 8)
        + queue("refuses", 0, 1, enabled=False)
        + queue("starts_none", 2, 0, started=False)
        + queue("leads", 5, 0, to="good,refuses")
        + queue("shut", 5, 0, to="good,refuses", started=False)
        + queue("astray", 5, 0, to="refuses,starts_none")
    )
    result = answer(framed("queues", queues))
    names = ["good@server", "refuses", "starts_none", "leads", "shut", "astray", "", "@server"]
    assert pbs.parse_load(result, names) == {
        "good@server": QueueLoad(9, 8),
        "refuses": QueueLoad(0, 1, closed=True),
        "starts_none": QueueLoad(2, 0, closed=True),
        "leads": QueueLoad(14, 8),
        "shut": QueueLoad(14, 8, closed=True),
        "astray": QueueLoad(7, 1, closed=True),
        "": QueueLoad(19, 8),
        "@server": QueueLoad(19, 8),
    }


def test_torque() -> None:
    result = answer(framed("queues", capture("torque-qstat-queues.out")))
    assert torque.parse_load(result, ["batch"]) == {"batch": QueueLoad(waiting=31, running=88)}


@pytest.mark.parametrize(
    "queues", [framed("queues", status=124), framed("queues"), framed("queues", "qstat: usage", errors="usage")]
)
def test_pbs_without_an_answer(queues: str) -> None:
    with pytest.raises(AnswerUnreadable, match=r"^qstat: "):
        pbs.parse_load(answer(queues), ["normal"])


def test_pbs_a_queue_without_counts_is_not_known() -> None:
    assert pbs.parse_load(answer(framed("queues", "Queue: normal\n    enabled = True\n")), ["normal", ""]) == {}


# --- LSF


def test_lsf() -> None:
    result = answer(framed("queues", capture("lsf-bqueues.out")), noise="Welcome!\n")
    assert lsf.parse_load(result, ["interactive", "normal", "a_queue_with_a_long_name", "", "none"]) == {
        "interactive": QueueLoad(waiting=0, cpus=32, busy=24),
        "normal": QueueLoad(waiting=120, busy=1002),  # jobs, not their 1,640 tasks
        "a_queue_with_a_long_name": QueueLoad(waiting=0, busy=0, closed=True),  # Open:Inact
        "": QueueLoad(waiting=120, busy=1026),
    }
    plain = answer(framed("queues", capture("lsf-bqueues-plain.out")))
    assert lsf.parse_load(plain, ["normal"]) == {"normal": QueueLoad(waiting=128, busy=586)}


@pytest.mark.parametrize(
    "status", ["Closed:Active", "Closed:Inact", "Open:Inact", "Open:Inact_Win", "Open:Inact_Adm"]
)
def test_lsf_a_queue_that_is_closed_says_so_and_several_are_one(status: str) -> None:
    lines = (
        "QUEUE_NAME PRIO STATUS MAX JL/U JL/P JL/H NJOBS PEND RUN SUSP\n"
        f"shut 30 {status} - - - - 3 1 2 0\n"
        "one 30 Open:Active 8 - - - 3 3 4 0\n"
        "two 30 Open:Active 9 - - - 3 5 6 0\n"
    )
    both = QueueLoad(waiting=8, cpus=17, busy=10)
    assert lsf.parse_load(answer(framed("queues", lines)), ["shut", "one two", "one  shut", "two none", ""]) == {
        "shut": QueueLoad(waiting=1, busy=2, closed=True),
        "one two": both,
        "one  shut": QueueLoad(waiting=3, cpus=8, busy=4),
        "two none": QueueLoad(waiting=5, cpus=9, busy=6),
        "": replace(both, cpus=None),
    }


@pytest.mark.parametrize("errors", ["LSF is down. Please wait ...", ""])
def test_lsf_without_an_answer(errors: str) -> None:
    with pytest.raises(AnswerUnreadable, match=r"^bqueues: "):
        lsf.parse_load(answer(framed("queues", errors=errors)), ["normal"])


# --- HTCondor


def pool(jobs: str, cpus: str, **cpus_frame: object) -> CommandResult:
    """An answer, counted."""
    parts = awk(htcondor_queries.JOBS, jobs), awk(htcondor_queries.CPUS, cpus)
    return answer(framed("jobs", parts[0]), framed("cpus", parts[1], **cpus_frame))  # type: ignore[arg-type]


def test_htcondor_is_one_pool_whatever_the_queue() -> None:
    jobs, slots = (capture(f"htcondor-condor_status-{name}.out") for name in ("schedd", "slots"))
    load = QueueLoad(waiting=3607, running=4542, cpus=26, busy=14)
    assert condor.parse_load(pool(jobs, slots), ["", "any"]) == {"": load, "any": load}


@pytest.mark.parametrize("slots", ["", "Owner 16\nDrained 32\n"])
def test_htcondor_a_pool_without_slots_starts_nothing(slots: str) -> None:
    assert condor.parse_load(pool("4 5\n", slots), [""]) == {"": QueueLoad(waiting=4, running=5, cpus=0, busy=0)}


def test_htcondor_half_an_answer() -> None:
    assert condor.parse_load(pool("", "Claimed 3\n"), [""]) == {"": QueueLoad(cpus=3, busy=3)}
    down = pool("4 5\n", "Claimed 3\n", status=1, errors="Error: Failed to connect to <10.0.0.1:9618>")
    assert condor.parse_load(down, [""]) == {"": QueueLoad(waiting=4, running=5)}
    with pytest.raises(AnswerUnreadable, match="condor_status"):
        condor.parse_load(pool("", ""), [""])


# --- none


def test_fork_cannot_be_asked() -> None:
    assert Fork().load_command([""]) is None
    with pytest.raises(NotImplementedError, match="fork"):
        Fork().parse_load(answer(), [""])
