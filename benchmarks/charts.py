"""The plots of the benchmarks, all of one kind: small panels of lines or stacked bars."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

Series = Mapping[str, Mapping[str, float]]
"""For each line or colour, its values by what stands below the axis."""


def bars(series: Series, target: Path, ylabel: str) -> None:
    """Stacked bars: one colour for each series."""
    pyplot = _pyplot()
    figure, chart = pyplot.subplots(figsize=(7, 4))
    bottom: dict[str, float] = {}
    for name, values in series.items():
        below = [bottom.get(x, 0.0) for x in values]
        chart.bar(list(values), list(values.values()), bottom=below, label=name, width=0.6)
        bottom |= {x: below[i] + value for i, (x, value) in enumerate(values.items())}
    chart.set(ylabel=ylabel)
    chart.legend(fontsize=8)
    _save(pyplot, figure, target)


def panels(charts: Mapping[str, Mapping[Any, float]], target: Path, ylabels: Mapping[str, str]) -> None:
    """One panel for each chart, a single line in each."""
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, len(charts), figsize=(3.2 * len(charts), 3.2), squeeze=False)
    for chart, (title, values) in zip(axes[0], charts.items(), strict=True):
        chart.plot(list(values), list(values.values()), "o-", markersize=6 if len(values) < 50 else 2)
        chart.set_title(title, fontsize=9)
        chart.set_ylabel(ylabels.get(title, ""), fontsize=8)
        chart.set_ylim(0, 1.05 * max(values.values(), default=1.0) or 1.0)
        chart.tick_params(labelsize=7)
        chart.grid(alpha=0.3)
    _save(pyplot, figure, target)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(pyplot: Any, figure: Any, target: Path) -> None:
    figure.tight_layout()
    figure.savefig(target, dpi=90)
    pyplot.close(figure)
