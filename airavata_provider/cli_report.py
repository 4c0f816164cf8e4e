"""``airflow airavata monitor-report``: how the sources of news did, as tables, JSON and pictures.

Works on the job store alone.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from airavata_provider.cli_commands import command, say, say_json, with_store
from airavata_provider.cli_queues import moment
from airavata_provider.jobs.figures import Figures, Spread, figures, tellings


@command
def monitor_report(args: Namespace) -> int:
    """Show how the sources did."""
    since = moment(args.since, datetime.now(UTC), past=True) if args.since else None
    news = with_store(lambda store: store.news_of_jobs(since))
    found = figures(news, since)
    files = []
    if args.plots is not None:
        from airavata_provider.plots import draw

        files = draw(tellings(news, since), args.plots)
    if args.output == "json":
        say_json(_without_nan(asdict(found)) | {"since": since, "plots": [str(file) for file in files]})
        return 0
    for line in tables(found):
        say(line)
    for file in files:
        say(f"drawn: {file}")
    return 0


def tables(found: Figures) -> list[str]:
    """The report for people, line by line. Pure."""
    lines = [f"{found.news} pieces of news of {found.jobs} jobs"]
    if found.sources:
        head = "transition", "source", "first", "told", "notice s", "p95", "most", "behind s", "p95", "most", "own s"
        rows = [
            (
                each.transition,
                each.source,
                f"{each.first} of {each.transitions}",
                str(each.told),
                *_seconds(each.notice),
                *_seconds(each.after_first),
                _seconds(each.own)[0],
            )
            for each in found.sources
        ]
        lines += ["", *_aligned([head, *rows])]
        lines += [
            "notice: from the transition to the news; behind: after the first source, where another was first;",
            "own: from the moment that the source names to its arrival. Medians, 95th percentiles, the longest.",
        ]
    if found.behind:
        head_ = "transition", "source", "behind", "pairs", "earlier", "median s", "p95", "most"
        pairs = [
            (
                each.transition,
                each.source,
                each.reference,
                str(each.seconds.count),
                str(each.earlier),
                *_seconds(each.seconds),
            )
            for each in found.behind
        ]
        lines += ["", *_aligned([head_, *pairs])]
    if found.effects:
        words = sorted({word for effects in found.effects.values() for word in effects})
        counts = [
            (source, *(str(effects.get(word, 0)) for word in words)) for source, effects in found.effects.items()
        ]
        lines += ["", *_aligned([("news of", *words), *counts])]
    return lines


def _seconds(spread: Spread) -> tuple[str, str, str]:
    if not spread.count:
        return "-", "-", "-"
    return f"{spread.median:.2f}", f"{spread.p95:.2f}", f"{spread.most:.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: there is nothing where there were no values."""
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
