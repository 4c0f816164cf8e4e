from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airavata_provider.jobs.tokens import WebhookTokens
from airavata_provider.models.identity import array_name

TOKENS = WebhookTokens("secret")


@given(st.text(), st.text())
def test_a_token_is_good_for_its_job_or_array_alone(job: str, other: str) -> None:
    token = TOKENS.token(job)
    assert re.fullmatch(r"v1\.[A-Za-z0-9_-]{43}", token)
    assert TOKENS.verify(job, token)
    assert TOKENS.verify(other, token) == (array_name(job) == array_name(other))


def test_an_arrays_elements_share_its_token() -> None:
    assert TOKENS.verify("a1.7", TOKENS.token("a1"))
    assert not TOKENS.verify("a10.7", TOKENS.token("a1"))


@given(st.text())
def test_anything_else_is_refused(text: str) -> None:
    assert not TOKENS.verify("a1", text)


def test_the_secret_decides() -> None:
    assert not WebhookTokens("another").verify("a1", TOKENS.token("a1"))
    with pytest.raises(ValueError, match="secret"):
        WebhookTokens("")
