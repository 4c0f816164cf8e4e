from __future__ import annotations

import json

from airavata_provider.schedulers.request import (
    Array,
    Dependency,
    DependencyKind,
    Element,
    JobRequest,
    MailEvent,
    recorded,
)


def test_the_record_of_a_request_is_json_and_keeps_no_secret() -> None:
    elements = tuple(Element(index, "/work", ("s3cret",), {"KEY": "s3cret"}) for index in (0, 1, 2, 7))
    request = JobRequest(
        "a1",
        "/work",
        "run",
        arguments=("s3cret",),
        environment={"KEY": "s3cret"},
        nodes=2,
        licenses=("matlab:2",),
        array=Array(elements, throttle=3),
        after=(Dependency("17", DependencyKind.ENDED),),
        mail_events=frozenset({MailEvent.FAIL, MailEvent.END}),
        directives=("--exclusive",),
    )
    record = recorded(request)
    assert record == {
        "after": [{"native_id": "17", "kind": "ended"}],
        "array": {"indices": [[0, 2], [7, 7]], "throttle": 3},
        "directives": ["--exclusive"],
        "licenses": ["matlab:2"],
        "mail_events": ["end", "fail"],
        "nodes": 2,
    }
    assert json.loads(json.dumps(record)) == record


def test_nothing_asked_is_nothing_recorded() -> None:
    assert recorded(JobRequest("a1", "/work", "run")) == {}
