"""Science gateways: how much of what all share each of them may use. Read from catalog files. Pure; no Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from airavata_provider.models.values import Count, Model, Name, real_number

Share = Annotated[float, BeforeValidator(real_number), Field(gt=0)]


class GatewayOnResource(Model):
    """What a gateway may have on one compute resource; a limit that is None does not exist.

    :param max_jobs: its jobs there, waiting in the scheduler's queues and running
    :param max_jobs_per_user: the same, of each of its users
    """

    max_jobs: Count | None = None
    max_jobs_per_user: Count | None = None


class Gateway(GatewayOnResource):
    """A gateway; one that no catalog names may do what others leave it, with a share of 1.

    :param max_jobs: its jobs, waiting in schedulers' queues and running, everywhere
    :param max_jobs_per_user: the same, of each of its users
    :param share: its part of a queue that several gateways wait for, beside the others' (2 gets twice as much as 1)
    :param resources: further limits, by compute resource
    :param only_on: resources and classes of resources, the only ones where its experiments run; none: all
    """

    name: Name
    description: str = ""
    share: Share = 1.0
    resources: Mapping[str, GatewayOnResource] = Field(default_factory=dict)
    only_on: tuple[Name, ...] = ()
