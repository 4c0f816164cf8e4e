"""Patterns that come with the package, task by task on the bed, as their DAGs' operators have them."""

from __future__ import annotations

from hashlib import sha256

from airavata_provider.models.pattern_folders import builtin_patterns
from airavata_provider.triggers.hosted import hosted_tasks
from dag_factories.factory import dags_from_file
from tests.integration.test_tasks import TEXT, name, request
from tests.services import BedServices


async def test_the_analysis_tells_of_everything_that_the_job_left(services: BedServices) -> None:
    (services.root / "in").mkdir()
    (services.root / "in" / "the text.txt").write_text(TEXT)
    experiment = name()
    dag, _ = dags_from_file(builtin_patterns() / "hpc_analysis.yaml")
    for task in dag.topological_sort():  # type: ignore[no-untyped-call]
        arguments = task.start_trigger_args
        assert arguments is not None
        assert arguments.trigger_kwargs is not None
        tasks = hosted_tasks(arguments.trigger_kwargs["tasks"], None, None, experiment=True)
        await services.run(experiment, request("cluster"), *tasks)
    result = (services.root / "out" / "result.txt").read_bytes()
    header, *lines = (services.root / "out" / "analysis.tsv").read_text().splitlines()
    assert header == "application\tupper"
    assert f"{sha256(result).hexdigest()}\t{len(result)}\t./result.txt" in lines
    assert [line.rpartition("\t")[2] for line in lines if "airavata" in line or "analys" in line] == []
