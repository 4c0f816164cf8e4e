"""What an experiment's job asks of its scheduler, and what becomes of what the scheduler has no words for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.deployment import Deployment
from airavata_provider.errors import ExperimentRefused
from airavata_provider.models.application import Parallelism
from airavata_provider.models.catalog import load_catalog
from airavata_provider.models.experiment import Experiment, ResolvedExperiment, resolve
from airavata_provider.models.identity import TaskIdentity
from airavata_provider.models.job import Job
from airavata_provider.schedulers.request import Container, ContainerRuntime, JobRequest, MailEvent, Signal
from airavata_provider.tasks.base import Services, TaskContext
from airavata_provider.tasks.job_request import door_faults, fit, job_fields, layout, option_faults, unsupported
from airavata_provider.tasks.submission import Submit
from airavata_provider.tasks.submit_parameters import SubmitParameters, request_of

FOLDER = Path(__file__).parents[2] / "fixtures" / "options_catalog"
CATALOG = load_catalog([FOLDER])


def resolved(application: str = "serial", **fields: Any) -> ResolvedExperiment:
    return resolve(Experiment.model_validate({"application": application, "id": "run", **fields}), CATALOG)


def requested(application: str = "serial", **fields: Any) -> JobRequest:
    experiment = resolved(application, **fields)
    parameters = SubmitParameters.model_validate(job_fields(experiment))
    return request_of(parameters, experiment.resource, name="ajob", directory="/d", comment="")


def test_options_reach_the_request() -> None:
    request = requested(
        exclusive=True, reservation="workshop", gpus=2, gpu_type="a100", walltime=10, memory_mb=5, cpus=4
    )
    assert (request.queue, request.qos, request.constraint) == ("the normal one", "patient", "fast")
    assert (request.exclusive, request.reservation, request.licenses) == (True, "workshop", ("abaqus:2",))
    assert (request.gpus, request.gpu_type, request.memory_mb, request.walltime_s) == (2, "a100", 5, 600)
    assert (request.mail_to, request.mail_events) == ("queue@example.org", frozenset({MailEvent.END, MailEvent.FAIL}))
    assert (request.tasks, request.cpus_per_task, request.tasks_per_node) == (1, 4, None)
    assert request.container == Container("/images/serial.sif", gpus=True)
    # The deployment's own: nothing is exported, one raw directive is replaced and one is taken out.
    assert request.export == ()
    assert request.directives == ("!--mem-bind", "--nice=9")
    assert request.environment == {"KEY": "value"}


def test_a_signal_before_the_walltime_is_an_option_like_others() -> None:
    request = requested(signal_before_end_s=300, signal="SIGTERM", walltime=10)
    assert (request.signal_before_end_s, request.signal) == (300, Signal.TERM)
    assert (requested().signal_before_end_s, requested().signal) == (None, None)
    queue = resolved().queue.model_copy(update={"signal_before_end_s": 120, "signal": "HUP"})
    resource = CATALOG.compute_resources["cluster"]
    cluster = resource.model_copy(update={"queues": {**resource.queues, "normal": queue}})
    catalog = replace(CATALOG, compute_resources={**CATALOG.compute_resources, "cluster": cluster})
    options = resolve(Experiment(application="serial", id="run", signal="USR2"), catalog).options
    assert (options.signal_before_end_s, options.signal) == (120, "USR2")


def test_what_nobody_asked_for_is_not_there() -> None:
    request = requested("threads", queue="other")
    assert (request.qos, request.constraint, request.licenses, request.mail_to) == (None, None, (), None)
    assert (request.exclusive, request.mail_events, request.export, request.directives) == (
        False,
        frozenset(),
        None,
        (),
    )
    assert request.container == Container(
        "docker://here/threads:1", ContainerRuntime.SINGULARITY, ("/data", "/a:/b:ro")
    )
    assert requested("threads").export == ("LANG",)
    # A type without a GPU, from a queue or a deployment, asks for nothing.
    assert requested("threads", gpus=0).gpu_type is None


def test_processes_on_each_node_are_of_programs_with_processes() -> None:
    assert requested("parallel", nodes=2, cpus=8, tasks_per_node=4).tasks_per_node == 4
    both = requested("threads", nodes=2, cpus=16, tasks_per_node=4)
    assert (both.tasks, both.cpus_per_task, both.environment["OMP_NUM_THREADS"]) == (8, 2, "2")
    assert requested(tasks_per_node=4, cpus=8).tasks_per_node is None


@given(st.sampled_from(Parallelism), st.integers(1, 20), st.integers(1, 500), st.none() | st.integers(1, 8))
def test_a_layout_asks_for_no_more_than_was_asked_for(
    parallelism: Parallelism, nodes: int, cpus: int, each: int | None
) -> None:
    tasks, cpus_per_task = layout(parallelism, nodes, cpus, each)
    assert tasks >= 1
    assert cpus_per_task >= 1
    if parallelism is Parallelism.OPENMP_MPI:
        assert tasks == nodes * (each or 1)
        assert tasks * cpus_per_task <= max(cpus, tasks)
    else:
        assert tasks * cpus_per_task == cpus


# --- what the scheduler has no words for, at the door


def test_each_is_told_in_the_experiments_words() -> None:
    request = JobRequest("a", "/d", "x", tasks=2, cpus_per_task=2, licenses=("l",), directives=("-q x",))
    faults = list(unsupported(CATALOG.compute_resources["host"], request))
    assert {fault.where for fault in faults} == {"cpus", "licenses", "directives"}
    assert "host cannot be asked for it: fork has no words for it" in {fault.message for fault in faults}
    assert not list(unsupported(CATALOG.compute_resources["cluster"], request))


def test_the_door_refuses_where_the_resource_minds_and_only_there() -> None:
    asked: dict[str, Any] = {"exclusive": True, "cpus": 2, "mail_to": "a@b"}
    strict = door_faults(resolved(compute_resource="strict_host", **asked))
    assert {fault.where for fault in strict} == {"exclusive", "cpus", "mail_to", "mail_events"}
    assert door_faults(resolved(compute_resource="host", **asked)) == []
    assert door_faults(resolved(compute_resource="cluster", **asked)) == []
    assert door_faults(resolved(compute_resource="strict_host", walltime=5)) == []


@pytest.mark.parametrize("resource", ["strict_host", "cluster"])
def test_the_door_refuses_a_signal_before_the_job_began(resource: str) -> None:
    late: dict[str, Any] = {"compute_resource": resource, "walltime": 5, "signal_before_end_s": 300}
    (fault,) = door_faults(resolved(**late))
    assert fault.where == "signal_before_end_s"
    assert "300 s before the end of its 300 s the job has not begun" in fault.message
    assert [each.where for each in option_faults(Experiment(application="serial", **late), CATALOG)] == [fault.where]
    assert door_faults(resolved(**{**late, "signal_before_end_s": 299})) == []


def test_a_signal_before_a_walltime_that_nobody_knows() -> None:
    asked: dict[str, Any] = {"signal_before_end_s": 300, "signal": "TERM"}
    faults = door_faults(resolved(compute_resource="strict_host", **asked))
    assert {fault.where for fault in faults} == set(asked)
    assert all("no walltime" in fault.message for fault in faults)
    assert door_faults(resolved(compute_resource="host", **asked)) == []
    assert door_faults(resolved(compute_resource="cluster", **asked)) == []
    # The walltime, or how long before it, may yet be a deployment's or a queue's.
    for some in (asked, {"signal": "TERM", "walltime": 1}):
        assert option_faults(Experiment(application="serial", compute_resource="strict_host", **some), CATALOG) == []


def test_the_door_tells_an_administrators_fault_as_one_of_the_catalog() -> None:
    experiment = resolved("parallel")
    bad = experiment.deployment.model_copy(update={"directives": ("--array=1-3",)})
    (fault,) = door_faults(ResolvedExperiment(**{**vars(experiment), "deployment": bad}))
    assert fault.where == "the catalog's compute_resources.cluster"
    assert "--array" in fault.message


def test_what_a_scheduler_has_no_words_for_is_no_place() -> None:
    found = fit(Experiment(application="serial", qos="high"), CATALOG)
    everywhere = fit(Experiment(application="serial"), CATALOG)
    names = [place.resource.name for place in found.places]
    assert "strict_host" not in names
    assert "cluster" in names
    assert {fault.where for fault in found.unfit["strict_host"]} == {"qos"}
    assert "strict_host" in [place.resource.name for place in everywhere.places]


def test_options_are_told_beside_whatever_else_is_wrong() -> None:
    deployment = Deployment((FOLDER,), ())
    conf = {"application": "serial", "compute_resource": "strict_host", "qos": "high", "inputs": {"txt": "x"}}
    with pytest.raises(ExperimentRefused) as caught:
        deployment.check(conf, experiment_id=None)
    assert {fault.where for fault in caught.value.faults} == {"qos", "inputs.txt"}
    with pytest.raises(ExperimentRefused) as caught:
        deployment.check({**conf, "inputs": {}}, experiment_id=None)
    assert [fault.where for fault in caught.value.faults] == ["qos"]
    assert (
        deployment.check({**conf, "compute_resource": "host", "inputs": {}}, experiment_id=None).options.qos == "high"
    )
    unknown = Experiment(application="serial", compute_resource="nowhere", qos="high")
    assert option_faults(unknown, CATALOG) == []


def test_a_sites_words_are_its_queues() -> None:
    assert requested().site_words == {"parallel_environment": "mpi", "exclusive": "exclusive"}
    grid = CATALOG.compute_resources["cluster"].model_copy(update={"scheduler": "sge"})
    catalog = replace(CATALOG, compute_resources={"cluster": grid})

    def faults(queue: str | None) -> list[str]:
        experiment = Experiment(application="serial", compute_resource="cluster", exclusive=True, queue=queue)
        return [fault.where for fault in option_faults(experiment, catalog)]

    assert faults(None) == faults("normal") == []
    assert faults("other") == ["exclusive"]


# --- and in the task, which alone sees what a pattern's own parameters ask for


class _NoHost(Services):
    """Services of a task that shall not get as far as its host."""

    def __init__(self) -> None:
        self.store = SimpleNamespace(attempts=self._attempts, intend=self._intend)  # type: ignore[assignment]
        self.intended: list[Job] = []

    async def _attempts(self, identity: TaskIdentity) -> list[Job]:
        return []

    async def _intend(self, job: Job) -> Job:
        self.intended.append(job)
        return job

    def compute_resource(self, name: str) -> Any:
        raise NotImplementedError

    async def host(self, resource: Any) -> Any:
        raise ConnectionError("the host was asked for")

    async def storage(self, name: str) -> Any:
        raise NotImplementedError

    def webhook_url(self, resource: Any, job: str) -> str | None:
        return None

    def webhook_token(self, job: str) -> str:
        raise NotImplementedError

    def admitter(self) -> Any:
        async def let_go(job: Job, log: object = None) -> Job:
            return job

        return SimpleNamespace(stamp=let_go, wait=let_go, leave=let_go)

    async def watch(self) -> None:
        raise NotImplementedError


def context(resource: str, services: Services, **parameters: Any) -> TaskContext[SubmitParameters]:
    return TaskContext(
        TaskIdentity("dag", "run", "submit"), 1, False, SubmitParameters(executable="x", **parameters), None,
        CATALOG.compute_resources[resource], "/d", services, logging.getLogger("task"),
    )  # fmt: skip


async def test_the_task_fails_before_anything_is_on_record() -> None:
    services = _NoHost()
    with pytest.raises(ExperimentRefused) as caught:
        await Submit().run(context("strict_host", services, qos="high", after=({"native_id": "1"},)))
    assert {fault.where for fault in caught.value.faults} == {"qos", "after"}
    assert services.intended == []


async def test_the_task_warns_of_each_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    services = _NoHost()
    with pytest.raises(ConnectionError):
        await Submit().run(context("host", services, qos="high", memory_mb=5))
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "memory_mb is left out: host cannot be asked for it: fork has no words for it",
        "qos is left out: host cannot be asked for it: fork has no words for it",
    ]
    assert len(services.intended) == 1


async def test_the_task_warns_of_a_signal_that_nobody_could_send(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectionError):
        await Submit().run(context("host", _NoHost(), walltime_s=60, signal_before_end_s=60))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("signal_before_end_s is left out: host cannot be asked for it: 60 s before the end")
    with pytest.raises(ExperimentRefused, match="signal_before_end_s"):
        await Submit().run(context("strict_host", _NoHost(), walltime_s=60, signal_before_end_s=60))


async def test_a_task_whose_options_are_all_had_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConnectionError):
        await Submit().run(context("cluster", _NoHost(), qos="high", memory_mb=5))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
