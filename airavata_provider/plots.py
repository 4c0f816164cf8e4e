"""Pictures of how the sources of news did (``jobs.figures``), as PNG files.

matplotlib is an extra, ``[plots]``, and is imported when something is drawn. Nothing here needs a display or changes
matplotlib's global state. Imports no Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from airavata_provider.errors import ConfigurationError
from airavata_provider.jobs.figures import REFERENCE, Telling, behind, by_transition

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
"""Okabe and Ito's, which the colour-blind can tell apart."""
_LEAST_S = 0.001
"""Axes are logarithmic: what took less is drawn here."""


def draw(told: Iterable[Telling], folder: Path) -> list[Path]:
    """Draw the pictures; the files that were written, none without news.

    ``first.png``: who told of each transition first. ``notice.png``: the part of the transitions that each source had
    told of after so many seconds. ``behind.png``, where others told of what the webhook told of: how far each was
    behind it, over time.

    :param folder: made where it is not there
    :raises ConfigurationError: matplotlib is not installed, or the folder cannot be written
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "pictures need matplotlib, which is not installed",
            advice="install the extra: pip install 'airflow-provider-airavata[plots]'",
        ) from error
    told = list(told)
    if not told:
        return []
    colors = dict(zip(sorted({each.source for each in told}), _COLORS * len(told), strict=False))
    found = by_transition(told)
    pairs = behind(told)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            _save(folder / "first.png", 1, lambda axes: _first(axes[0], found, colors)),
            _save(folder / "notice.png", len(found), lambda axes: _notice(axes, found, colors)),
        ]
        if pairs:
            files.append(_save(folder / "behind.png", 1, lambda axes: _behind(axes[0], pairs, colors)))
    except OSError as error:
        raise ConfigurationError(f"pictures cannot be written to {folder}: {error.strerror or error}") from error
    return files


def _save(path: Path, parts: int, paint: Callable[[Sequence[Axes]], None]) -> Path:
    """A picture of parts below each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 3 * parts), layout="constrained")
    paint([figure.add_subplot(parts, 1, number + 1) for number in range(parts)])
    figure.savefig(path, dpi=120)
    return path


def _first(axes: Axes, found: Mapping[str, Mapping[str, Sequence[Telling]]], colors: Mapping[str, str]) -> None:
    names = list(found)[::-1]
    left = dict.fromkeys(names, 0)
    for source, color in colors.items():
        counts = [sum(each.first for each in found[name].get(source, ())) for name in names]
        if any(counts):
            axes.barh(names, counts, left=[left[name] for name in names], color=color, label=source)
            left = {name: left[name] + count for name, count in zip(names, counts, strict=True)}
    axes.set_xlabel("transitions, by the source that told first")
    axes.legend()


def _notice(
    parts: Sequence[Axes], found: Mapping[str, Mapping[str, Sequence[Telling]]], colors: Mapping[str, str]
) -> None:
    for axes, (transition, of) in zip(parts, found.items(), strict=True):
        transitions = sum(each.first for tellings in of.values() for each in tellings)
        for source, tellings in of.items():
            seconds = sorted(max(_LEAST_S, each.notice_s) for each in tellings)
            shares = [(number + 1) / transitions for number in range(len(seconds))]
            axes.step(seconds, shares, where="post", color=colors[source], label=source)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.05)
        axes.set_title(transition)
        axes.set_ylabel("told of")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    parts[-1].set_xlabel("seconds from the transition to the news")


def _behind(
    axes: Axes, pairs: Mapping[tuple[str, str], Sequence[tuple[object, float]]], colors: Mapping[str, str]
) -> None:
    markers = dict(zip(dict.fromkeys(transition for transition, _ in pairs), "ox^sD", strict=False))
    for (transition, source), of in pairs.items():
        axes.plot(
            [moment for moment, _ in of],  # type: ignore[arg-type]
            [seconds for _, seconds in of],
            linestyle="",
            marker=markers[transition],
            markersize=4,
            color=colors[source],
            label=f"{source}, {transition}",
        )
    axes.set_yscale("symlog", linthresh=1)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel(f"seconds behind the {REFERENCE}")
    axes.tick_params(axis="x", rotation=30)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
