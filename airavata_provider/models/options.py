"""What a job asks its scheduler for beside its sizes: the same fields on a queue, a deployment and an experiment.

Pure; no Airflow.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from airavata_provider.models.values import Count, CountOrNone, Model, Text, lower, shown


def _address(value: str) -> str:
    if not re.fullmatch(r"[^\s@,<>\"'\\]+@[^\s@,<>\"'\\]+", value) or not value.isprintable():
        raise ValueError(f"should be one mail address, not {shown(value)}")
    return value


def _licence(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.@/-]+(:[1-9][0-9]*)?", value):
        raise ValueError(f"should be a licence's name, or name:count, not {shown(value)}")
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        raise ValueError(f"should be the name of a variable, or ALL, not {shown(value)}")
    return value


def _signal(value: object) -> object:
    """A signal in any case, with or without ``SIG``."""
    return value.upper().removeprefix("SIG") if isinstance(value, str) else value


Address = Annotated[str, AfterValidator(_address)]
Licence = Annotated[str, AfterValidator(_licence)]
Variable = Annotated[str, AfterValidator(_variable)]
MailEvent = Annotated[Literal["begin", "end", "fail", "requeue"], BeforeValidator(lower)]
Signal = Annotated[Literal["USR1", "USR2", "TERM", "HUP"], BeforeValidator(_signal)]


class JobOptions(Model):
    """What is None is not asked for here; the experiment's word comes first, then the deployment's, then the queue's.

    :param qos: quality of service
    :param reservation: reservation to run in
    :param constraint: features that its nodes must have, in the scheduler's own syntax
    :param exclusive: nobody else's jobs on its nodes
    :param gpu_type: kind of GPU, in the site's words
    :param licenses: ``name`` or ``name:count``
    :param tasks_per_node: processes on each node, for what runs in several processes
    :param mail_to: address for the scheduler's mail
    :param mail_events: when it writes one; with an address alone: ``end`` and ``fail``
    :param signal_before_end_s: seconds before the walltime at which the program gets a signal; 0: never
    :param signal: which
    """

    qos: Text | None = None
    reservation: Text | None = None
    constraint: Text | None = None
    exclusive: bool | None = None
    gpu_type: Text | None = None
    licenses: tuple[Licence, ...] | None = None
    tasks_per_node: Count | None = None
    mail_to: Address | None = None
    mail_events: tuple[MailEvent, ...] | None = None
    signal_before_end_s: CountOrNone | None = None
    signal: Signal | None = None


def merged(*layers: JobOptions) -> JobOptions:
    """Each field from the first layer that has it."""
    values = {
        name: next((found for layer in layers if (found := getattr(layer, name)) is not None), None)
        for name in JobOptions.model_fields
    }
    if values["mail_to"] is not None and values["mail_events"] is None:
        values["mail_events"] = ("end", "fail")
    return JobOptions.model_validate(values)
