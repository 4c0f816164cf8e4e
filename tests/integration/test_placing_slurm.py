"""Where an experiment goes: a real cluster's own figures are among the reasons."""

from __future__ import annotations

import re

from airavata_provider.jobs.placing import soonest
from airavata_provider.models.experiment import Experiment, resolve_all
from tests.services import BedServices


async def test_the_cluster_is_asked_how_full_it_is(services: BedServices) -> None:
    asked = {"application": "upper", "inputs": {"text": "storage://files/text"}, "outputs_to": "storage://files/out"}
    (services.root / "text").write_text("text")
    fitting = resolve_all(Experiment.model_validate(asked), services.catalog())
    assert [each.resource.name for each in fitting.places] == ["cluster", "host"]
    found = await services.placer().place("d", "r", "born", fitting, soonest)
    (told,) = [reason for reason in found.reasons if reason.startswith("cluster's queue debug: ")]
    assert re.search(r", \d+ jobs of everybody wait, \d+ run, \d+ of 64 CPUs are busy$", told), told
