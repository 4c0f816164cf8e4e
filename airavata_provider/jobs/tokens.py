"""Tokens of webhooks: each lets its bearer speak for one job, or for the elements of one array, and for no other.

All elements of an array share its script, and so its token. A token is a version and the HMAC-SHA256 of the job's
or the array's name under a key that is derived from the deployment's
webhook secret. Nothing of it is stored: whoever knows the secret can make it and check it. It ends with the secret.

:class:`WebhookTokens` is pure; :func:`token` and :func:`verify` take the deployment's secret.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac

from airavata_provider.models.identity import array_name

_VERSION = "v1"


class WebhookTokens:
    """Makes and checks tokens.

    :param secret: ``[airavata] webhook_secret`` (:class:`~airavata_provider.settings.Settings`)
    :raises ValueError: an empty secret, with which anybody could make tokens
    """

    def __init__(self, secret: str) -> None:
        if not secret:
            raise ValueError("webhook tokens need a secret")
        # A key of its own, so that the secret may serve other purposes too.
        self._key = hmac.digest(secret.encode(), b"airavata webhook token " + _VERSION.encode(), hashlib.sha256)

    def token(self, job: str) -> str:
        """The token of that job, of an element its array's: ``v1.`` and 43 characters from ``[A-Za-z0-9_-]``."""
        digest = hmac.digest(self._key, array_name(job).encode("utf-8", "surrogatepass"), hashlib.sha256)
        return f"{_VERSION}.{base64.urlsafe_b64encode(digest).decode('ascii').rstrip('=')}"

    def verify(self, job: str, token: str) -> bool:
        """Whether that is the job's token; takes the same time for every wrong one."""
        return hmac.compare_digest(self.token(job).encode("ascii"), token.encode("utf-8", "surrogatepass"))


def token(job: str) -> str:
    """The token of that job in this deployment."""
    return _deployment_tokens().token(job)


def verify(job: str, token: str) -> bool:
    """Whether that is the job's token in this deployment."""
    return _deployment_tokens().verify(job, token)


def _deployment_tokens() -> WebhookTokens:
    from airavata_provider.settings import get_settings

    return _tokens_of(get_settings().webhook_secret)


@functools.lru_cache(maxsize=1)
def _tokens_of(secret: str) -> WebhookTokens:
    return WebhookTokens(secret)
