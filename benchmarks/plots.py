"""The plots. Needs matplotlib (the ``bench`` extra); everything else does without."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
# Text stays text, and the same figures give the same file.
mpl.rcParams.update(
    {"svg.fonttype": "none", "svg.hashsalt": "riva_stream", "font.size": 9, "axes.grid": True}
)

from matplotlib import pyplot as plt  # noqa: E402 - after the backend is chosen

__all__ = ["lanes", "lines", "peers"]

_OWN, _OTHER, _SERVER = "#0b6e4f", "#8d99ae", "#d9dee7"
_MIB = 1 << 20
_LANE_LABELS = {
    "fetched": "source read",
    "hashed": "archive hashed",
    "extracted": "archive inflated (its bytes)",
    "expanded": "inflated (expanded bytes)",
    "durable": "durable in the store",
}


def peers(archive: dict[str, Any], path: Path) -> None:
    """Bars: wall, and CPU of client and server, of each peer."""
    measured = [peer for peer in archive["peers"] if "figures" in peer][::-1]
    labels = [peer["label"] for peer in measured]
    colours = [_OWN if peer["name"].startswith("riva") else _OTHER for peer in measured]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 0.42 * len(measured) + 1.4), sharey=True, layout="constrained"
    )
    walls = [peer["figures"]["wall_seconds"] for peer in measured]
    middle = [wall["median"] for wall in walls]
    errors = [
        [wall["median"] - wall["least"] for wall in walls],
        [wall["most"] - wall["median"] for wall in walls],
    ]
    bars = left.barh(labels, middle, xerr=errors, color=colours, error_kw={"lw": 0.8, "capsize": 2})
    left.bar_label(bars, [f"{value:.1f}" for value in middle], padding=6)
    left.set_xlabel("wall seconds, median (least to most)")
    left.margins(x=0.12)
    client = [peer["figures"]["client_cpu_seconds"]["median"] for peer in measured]
    server = [peer["figures"]["server_cpu_seconds"]["median"] for peer in measured]
    right.barh(labels, client, color=colours, label="client")
    right.barh(labels, server, left=client, color=_SERVER, label="server")
    if archive["kernels"]:
        right.axvline(
            archive["kernels"]["sum_cpu_seconds"], color="black", lw=1, ls="--", label="sum of the kernels"
        )
    right.set_xlabel("CPU seconds: client (dark) and server (light)")
    right.legend(loc="lower right")
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
        axes.set_axisbelow(True)
    figure.suptitle(f"{archive['kind']}: archive of {archive['archive_bytes'] / _MIB:.0f} MiB")
    _save(figure, path)


def lanes(archive: dict[str, Any], path: Path) -> None:
    """Throughput over time of each lane of one run, over half a second each."""
    events = archive["lanes"]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    for name, label in _LANE_LABELS.items():
        times, rates = _rates(events, name)
        axes.plot(times, rates, label=label, lw=1.4)
    axes.set_xlabel("seconds since the first byte was asked for")
    axes.set_ylabel("MiB/s")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.set_title(f"{archive['kind']}: one run, lane by lane")
    _save(figure, path)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    labels: tuple[str, str, str],
    limits: Mapping[str, Sequence[tuple[float, float]]],
) -> None:
    """Measured points joined by lines, and what was promised, dashed. ``labels``: title, x and y."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), marker="o", ms=4, label=name)
    for name, points in limits.items():
        axes.plot(*zip(*points, strict=True), ls="--", color="black", lw=1, label=name)
    title, x_label, y_label = labels
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_ylim(bottom=0)
    axes.legend()
    _save(figure, path)


def _rates(
    events: Sequence[dict[str, float]], name: str, window: float = 0.5
) -> tuple[list[float], list[float]]:
    times, rates = [0.0], [0.0]
    since = {"elapsed": 0.0, name: 0.0}
    for event in events:
        passed = event["elapsed"] - since["elapsed"]
        if passed >= window:
            times.append((event["elapsed"] + since["elapsed"]) / 2)
            rates.append((event[name] - since[name]) / _MIB / passed)
            since = event
    return times, rates


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
