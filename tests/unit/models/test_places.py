"""Where requests may run: deployments that fit, pins, classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airavata_provider.errors import CatalogError, ExperimentRefused
from airavata_provider.models.catalog import Catalog, load_catalog
from airavata_provider.models.experiment import Experiment, Fitting, resolve, resolve_all
from airavata_provider.models.placement import Placement
from tests.unit.jobs.factory import NOON

BASE = """\
storage_resources:
  home: {{type: local, root: /srv}}
compute_resources:
  alpha:
    connection: a
    scheduler: fork
    scratch: /scratch
    queues:
      short: {{max_cpus: 4}}
      long: {{name: batch, max_cpus: 8}}
    default_queue: short
  beta: {{connection: b, scheduler: fork, scratch: /scratch, classes: [sensitive, big]}}
  gamma: {{connection: c, scheduler: fork, scratch: /scratch, classes: [big]}}
applications:
  run:
    {application}
    deployments:
      alpha: {{executable: /bin/run}}
      beta: {{executable: /bin/run, arguments: ["{{{{ inputs.nonsense }}}}"]}}
      gamma: {{executable: /bin/run}}
gateways:
  hospital: {{only_on: [{gateway}]}}
"""


def catalog(folder: Path, application: str = "only_on: []", gateway: str = "sensitive, gamma") -> Catalog:
    text = BASE.format(application=application, gateway=gateway)
    (folder / "catalog.yaml").write_text(text)
    return load_catalog([folder])


def fits(known: Catalog, **fields: Any) -> Fitting:
    return resolve_all(Experiment(application="run", **fields), known)


def names(found: Fitting) -> list[str]:
    return [each.resource.name for each in found.places]


def told(known: Catalog, **fields: Any) -> dict[str, str]:
    with pytest.raises(ExperimentRefused) as caught:
        fits(known, **fields)
    return {fault.where: fault.message for fault in caught.value.faults}


def test_every_deployment_that_fits_is_a_place(tmp_path: Path) -> None:
    known = catalog(tmp_path)
    found = fits(known)
    assert names(found) == ["alpha", "gamma"]
    assert [fault.where for fault in found.unfit["beta"]] == [
        "the catalog's applications.run.deployments.beta.arguments"
    ]
    found = fits(known, cpus=6)
    assert names(found) == ["gamma"]
    assert "6 is more than alpha's queue short allows (4)" in found.unfit["alpha"][0].message
    assert names(fits(known, compute_resource="gamma")) == ["gamma"]


def test_requests_name_resources_and_classes(tmp_path: Path) -> None:
    known = catalog(tmp_path)
    assert names(fits(known, only_on=["gamma", "alpha"])) == ["alpha", "gamma"]
    found = fits(known, only_on=["big"])
    assert names(found) == ["gamma"]
    assert found.unfit["alpha"][0].message == "the request runs only on big; alpha is not that"
    assert told(known, only_on=["bigg"]) == {
        "only_on[0]": "no compute resource or class 'bigg' (did you mean 'big'?)"
    }
    refused = told(known, compute_resource="alpha", only_on=["big"])
    assert refused == {"compute_resource": "the request runs only on big; alpha is not that"}


def test_the_applications_and_the_gateways_pins_hold_too(tmp_path: Path) -> None:
    known = catalog(tmp_path, application="only_on: [alpha, gamma]")
    assert names(fits(known)) == ["alpha", "gamma"]
    assert names(fits(known, gateway="hospital")) == ["gamma"]
    assert names(fits(known, gateway="another")) == ["alpha", "gamma"]
    refused = told(known, gateway="hospital", compute_resource="alpha")
    assert refused == {
        "compute_resource": "gateway hospital runs only on sensitive, gamma; alpha is not that",
    }
    with pytest.raises(ExperimentRefused) as caught:
        fits(known, gateway="hospital", only_on=["alpha"])
    messages = [fault.message for fault in caught.value.faults]
    assert messages[0] == "on alpha: gateway hospital runs only on sensitive, gamma; alpha is not that"
    assert "on gamma: the request runs only on alpha; gamma is not that" in messages


def test_pins_on_nothing_are_the_catalogs_faults(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"only_on\[0\]: no such compute resource or class") as caught:
        catalog(tmp_path, application="only_on: [delta]", gateway="sensitiv")
    assert "gateways.hospital.only_on[0]: no such compute resource or class (did you mean 'sensitive'?)" in str(
        caught.value
    )
    text = BASE.format(application="only_on: []", gateway="beta").replace("[big]", "[alpha]")
    (tmp_path / "catalog.yaml").write_text(text)
    with pytest.raises(CatalogError, match=r"gamma\.classes\[0\]: 'alpha' is a compute resource's name"):
        load_catalog([tmp_path])


def test_what_was_decided_is_what_it_is(tmp_path: Path) -> None:
    known = catalog(tmp_path)
    asked = Experiment(application="run", cpus=2)
    there = Placement("d", "e", "b", "alpha", "long", NOON, sizes={"cpus": 3})
    found = resolve(there.settled(asked), known)
    assert (found.resource.name, found.queue.name, found.cpus) == ("alpha", "batch", 3)
    found = resolve(Placement("d", "e", "b", "gamma", None, NOON).settled(asked), known)
    assert (found.resource.name, found.queue.name, found.cpus) == ("gamma", None, 2)
