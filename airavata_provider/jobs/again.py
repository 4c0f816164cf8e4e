"""Work that is tried again after what passes. Imports no Airflow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def again(
    work: Callable[[], Awaitable[T]],
    pauses: Iterable[float],
    passes: Callable[[Exception], bool],
    told: Callable[[Exception, float], None] | None = None,
) -> T:
    """Do it, and once more after each pause: work that may be done twice.

    :param pauses: in seconds
    :param passes: whether an error is one after which it may go well
    :param told: called with such an error and the pause that follows
    :raises Exception: what the last try raised
    """
    for pause_s in pauses:
        try:
            return await work()
        except Exception as error:
            if not passes(error):
                raise
            if told is not None:
                told(error, pause_s)
        await asyncio.sleep(pause_s)
    return await work()
