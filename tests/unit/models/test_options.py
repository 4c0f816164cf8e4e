"""Script options of queues, deployments and experiments: who wins, what is refused, reservations, launchers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from airavata_provider.errors import ExperimentRefused
from airavata_provider.models.application import Application, Deployment
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.models.experiment import Experiment, resolve
from airavata_provider.models.options import JobOptions, merged
from airavata_provider.models.resolved import ResolvedExperiment, launcher_words
from airavata_provider.models.resource import ComputeResource

CATALOG: Catalog = load_catalog([Path(__file__).parents[2] / "fixtures" / "options_catalog"])
BEFORE = datetime(2030, 7, 1, 0, 0, tzinfo=UTC)


def resolved(application: str = "serial", *, now: datetime | None = None, **fields: Any) -> ResolvedExperiment:
    experiment = Experiment.model_validate({"application": application, "id": "run", **fields})
    return resolve(experiment, CATALOG, now=now)


def refused(application: str = "serial", **fields: Any) -> dict[str, str]:
    with pytest.raises(ExperimentRefused) as caught:
        resolved(application, **fields)
    return {fault.where: fault.message for fault in caught.value.faults}


# --- layers


def test_the_experiments_word_comes_first_then_the_deployments_then_the_queues() -> None:
    options = resolved(constraint="slow", mail_events=["BEGIN"]).options
    assert options == JobOptions(
        qos="patient",
        constraint="slow",
        licenses=("abaqus:2",),
        mail_to="queue@example.org",
        mail_events=("begin",),
    )
    assert resolved(qos="mine").options.qos == "mine"
    assert resolved("parallel").options.qos == "standard"
    assert resolved(queue="other").options.constraint is None


def test_an_address_alone_hears_of_the_end() -> None:
    assert resolved().options.mail_events == ("end", "fail")
    assert resolved(mail_events=[]).options.mail_events == ()
    assert resolved(queue="other").options.mail_events is None


_LAYER = st.builds(
    JobOptions,
    qos=st.none() | st.sampled_from(["a", "b"]),
    exclusive=st.none() | st.booleans(),
    licenses=st.none() | st.sampled_from([(), ("x",), ("y:2",)]),
    tasks_per_node=st.none() | st.integers(1, 4),
)


@given(st.lists(_LAYER, min_size=1, max_size=4))
def test_each_field_is_the_first_layers_that_has_it(layers: list[JobOptions]) -> None:
    found = merged(*layers)
    for name in ("qos", "exclusive", "licenses", "tasks_per_node"):
        values = [getattr(layer, name) for layer in layers]
        assert getattr(found, name) == next((value for value in values if value is not None), None)


# --- values


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("mail_to", "ada", "one mail address"),
        ("mail_to", "a@b,c@d", "one mail address"),
        ("mail_to", "a@b c", "one mail address"),
        ("mail_to", "a@b\n#SBATCH", "one mail address"),
        ("mail_to", "a@\x07", "one mail address"),
        ("licenses", ["abaqus:0"], "a licence's name"),
        ("licenses", ["abaqus,matlab"], "a licence's name"),
        ("licenses", ["a b"], "a licence's name"),
        ("mail_events", ["sometimes"], "begin"),
        ("tasks_per_node", 0, "1"),
        ("signal_before_end_s", -1, "0"),
        ("signal_before_end_s", "soon", "whole number"),
        ("signal", "KILL", "USR1"),
        ("signal", 10, "USR1"),
        ("exclusive", "maybe", "boolean"),
        ("qos", "a\0b", "NUL"),
    ],
)
def test_refused_values(field: str, value: object, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        JobOptions.model_validate({field: value})
    # The same for a request, told as its field's fault.
    with pytest.raises(ExperimentRefused) as caught:
        Experiment.from_conf({"application": "serial", field: value}, experiment_id=None)
    assert [fault.where.split("[")[0] for fault in caught.value.faults] == [field]


def test_a_signal_is_written_in_any_way() -> None:
    for word in ("TERM", "term", "SIGTERM"):
        assert JobOptions.model_validate({"signal": word, "signal_before_end_s": "120"}) == JobOptions(
            signal="TERM", signal_before_end_s=120
        )


def test_null_and_nothing_are_not_given() -> None:
    assert JobOptions.model_validate({"qos": "", "mail_to": None, "reservation": ""}) == JobOptions()


@pytest.mark.parametrize("name", ["A=b", "", "a b", "1A", "A,B"])
def test_only_names_are_exported(name: str) -> None:
    with pytest.raises(ValidationError):
        Deployment.model_validate({"executable": "x", "export": [name]})


@pytest.mark.parametrize("bind", ["data", "/a:b", "/a:/b:/c", "/a,/b", "/a:/b:", ""])
def test_refused_binds(bind: str) -> None:
    with pytest.raises(ValidationError):
        Deployment.model_validate({"executable": "x", "container": {"image": "i", "binds": [bind]}})


def test_a_container_may_be_its_image_alone() -> None:
    container = CATALOG.applications["serial"].deployments["cluster"].container
    assert container is not None
    assert (container.image, container.runtime, container.gpus) == ("/images/serial.sif", "apptainer", None)
    with pytest.raises(ValidationError, match="apptainer"):
        Deployment.model_validate({"executable": "x", "container": {"image": "i", "runtime": "docker"}})


# --- sizes that go with options


def test_a_type_of_gpu_needs_a_gpu() -> None:
    assert refused(compute_resource="cluster", gpu_type="a100") == {"gpu_type": "no GPU is asked for"}
    assert resolved(gpu_type="a100", gpus=1).options.gpu_type == "a100"


def test_processes_on_each_node_suffice_for_all() -> None:
    assert (
        "are no 9 processes"
        in refused("parallel", compute_resource="cluster", nodes=2, cpus=9, tasks_per_node=4)["tasks_per_node"]
    )
    assert resolved("parallel", nodes=2, cpus=8, tasks_per_node=4).cpus == 8
    assert "4 processes on each" in refused("threads", nodes=2, cpus=12, tasks_per_node=4)["cpus"]
    assert resolved("threads", nodes=2, cpus=16, tasks_per_node=4).cpus == 16


# --- reservations


def test_a_request_in_its_reservations_window() -> None:
    for begin in (BEFORE, datetime(2030, 7, 1, 10, 0, tzinfo=UTC)):
        found = resolved(reservation="workshop", walltime="06:00:00", now=begin)
        assert found.options.reservation == "workshop"
    # Without a walltime the scheduler's default holds, which nobody here knows.
    assert resolved(reservation="workshop", now=datetime(2030, 7, 1, 15, 59, tzinfo=UTC)).walltime_s is None
    assert resolved(reservation="open", walltime="9-00:00:00", queue="other", now=BEFORE)


def test_a_reservation_that_is_too_short_or_over() -> None:
    on = {"compute_resource": "cluster", "reservation": "workshop"}
    # It begins at 06:00 UTC, so ten hours fit, to the second, and not one second more.
    assert resolved(**on, walltime="10:00:00", now=BEFORE)
    told = refused(**on, walltime="10:00:01", now=BEFORE)
    assert set(told) == {"walltime"}
    assert "10:00:01 from 2030-07-01T06:00:00+00:00 on do not fit into the reservation workshop" in told["walltime"]
    late = "2030-07-01T12:00:00Z"
    assert set(refused(**on, walltime="05:00:00", not_before=late, now=BEFORE)) == {"walltime"}
    assert resolved(**on, walltime="04:00:00", not_before=late, now=BEFORE)
    assert "is over" in refused(**on, now=datetime(2030, 7, 1, 16, 0, tzinfo=UTC))["reservation"]
    assert "is over" in refused(**on, not_before="2030-07-02", now=BEFORE)["reservation"]
    # An experiment under way is not looked at again.
    assert resolved(**on, walltime="10:00:01", now=None)


def test_a_reservation_of_other_queues_or_of_nobody() -> None:
    on: dict[str, Any] = {"compute_resource": "cluster", "now": BEFORE}
    assert refused(**on, reservation="workshop", queue="other") == {
        "reservation": "workshop is for the queues normal"
    }
    assert refused(**on, reservation="worksop") == {
        "reservation": "cluster has no reservation 'worksop' (did you mean 'workshop'?)"
    }
    # Where no reservations are told of, the scheduler knows them.
    assert resolved(compute_resource="host", reservation="any", now=BEFORE).options.reservation == "any"


@pytest.mark.parametrize(
    ("reservation", "says"),
    [
        ({"start": "2030-01-02", "end": "2030-01-02"}, "end: should be after start"),
        ({"queues": ["nrmal"]}, "did you mean 'normal'"),
        ({"start": "tomorrow"}, "should be a time like"),
    ],
)
def test_reservations_that_cannot_be(reservation: dict[str, Any], says: str) -> None:
    values = {
        "name": "c", "connection": "c", "scheduler": "slurm", "scratch": "/s", "queues": {"normal": None},
        "reservations": {"r": reservation},
    }  # fmt: skip
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(ComputeResource).validate_python(values)


# --- launchers


def test_the_deployments_launcher_comes_before_the_resources() -> None:
    assert launcher_words(resolved("parallel", cpus=8)) == ("mpirun", "-np", "8")
    assert launcher_words(resolved("threads", nodes=2, cpus=8)) == ("srun", "--nodes=2")
    assert launcher_words(resolved("parallel", compute_resource="host")) == ()
    assert launcher_words(resolved(compute_resource="host")) == ("nice",)
    assert launcher_words(resolved(compute_resource="cluster")) == ()


@pytest.mark.parametrize(
    ("launcher", "says"), [(["{{ nothing.here }}"], "there is no nothing"), (["{{ experiment.cpus"], "template")]
)
def test_launchers_that_no_template_makes(launcher: list[str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Deployment.model_validate({"executable": "x", "launcher": launcher})
    with pytest.raises(ValidationError, match=says):
        ComputeResource.model_validate(
            {"name": "c", "connection": "c", "scheduler": "slurm", "scratch": "/s", "launchers": {"MPI": launcher}}
        )


def test_a_launcher_that_asks_for_what_is_not_there_refuses_the_request() -> None:
    deployment = CATALOG.applications["parallel"].deployments["cluster"]
    bad = deployment.model_copy(update={"launcher": ("{{ experiment.no_such_field }}",)})
    application = CATALOG.applications["parallel"].model_copy(update={"deployments": {"cluster": bad}})
    catalog = Catalog(CATALOG.compute_resources, CATALOG.storage_resources, {"parallel": application})
    with pytest.raises(ExperimentRefused) as caught:
        resolve(Experiment(application="parallel"), catalog)
    assert [fault.where for fault in caught.value.faults] == ["the catalog's launcher of parallel on cluster"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_our_own_directory_is_no_stream_of_an_application(stream: str) -> None:
    values = {"name": "a", "deployments": {"c": {"executable": "x"}}, stream: ".airavata"}
    with pytest.raises(ValidationError, match=f"{stream}: .airavata is our own directory"):
        Application.model_validate(values)
