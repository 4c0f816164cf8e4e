from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.models.identity import (
    TaskIdentity,
    array_name,
    birth,
    element_name,
    experiment_directory,
    job_name,
)


@given(st.text(), st.text(), st.text())
def test_a_directory_is_one_safe_component_and_the_runs_own(dag_id: str, experiment_id: str, born: str) -> None:
    name = experiment_directory(dag_id, experiment_id, born)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,72}", name)
    assert name != experiment_directory(dag_id, experiment_id, born + "+")


def test_a_run_made_again_has_names_of_its_own() -> None:
    first, second = (TaskIdentity("d", "e", "submit", born=born) for born in ("first", "second"))
    assert job_name(first) != job_name(second)


def test_birth_is_the_same_in_every_zone() -> None:
    moment = datetime(2031, 5, 6, 12, 0, 0, 5, tzinfo=UTC)
    assert (
        birth(moment) == birth(moment.astimezone(timezone(timedelta(hours=9)))) == "2031-05-06T12:00:00.000005+00:00"
    )


@given(st.integers(min_value=0))
def test_an_elements_name_leads_to_its_array(index: int) -> None:
    array = job_name(TaskIdentity("d", "e", "submit"))
    assert array_name(element_name(array, index)) == array_name(array) == array
