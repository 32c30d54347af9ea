"""Curves over the steps as inline SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

POINTS = 400  # of a curve; of longer ones, means of as many stretches
_COLOURS = ("#1b5c9e", "#d9822b", "#1f7a5c", "#a66fb5", "#b23a48", "#7f8c8d")
_ALARM = "#a32a34"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "openlvd",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#b8c0c8",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e8ebee",
    "xtick.color": "#55606b",
    "ytick.color": "#55606b",
    "legend.frameon": False,
}


def curves(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    label: str,
    spans: Sequence[tuple[float, float]] = (),
    bounds: Sequence[float] = (),
) -> Markup:
    """A chart of one or several curves.

    Args:
        series: name -> steps and values, both [n].
        label: the chart in words, for readers who do not see it.
        spans: from and to of what is shaded: an alarm was on.
        bounds: values at which an alarm begins, as dotted lines where they are near the curve.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 2.5), layout="constrained")
        axis = figure.subplots()
        for (name, (steps, values)), colour in zip(series.items(), _COLOURS * len(series), strict=False):
            x, mean, low, high = thinned(steps, values)
            marker = "o" if len(x) < 20 else None
            axis.plot(x, mean, color=colour, linewidth=1.4, label=name, marker=marker, markersize=3)
            if len(x) < len(steps):
                axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        for first, last in spans:
            axis.axvspan(first, last, color=_ALARM, alpha=0.14, linewidth=0)
        bottom, top = axis.get_ylim()
        for bound in bounds:
            if bottom - (top - bottom) <= bound <= top + (top - bottom):
                axis.axhline(bound, color=_ALARM, linestyle=":", linewidth=1)
        if len(series) > 1:
            figure.legend(fontsize=8, loc="outside upper left", ncols=4)
        axis.set_xlabel("step", color="#55606b")
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if axis.get_ylim()[1] >= 1e4:
            axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return Markup('<div role="img" aria-label="{}">{}</div>').format(label, Markup(svg))


def thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """At most POINTS stretches of a curve: their last steps, means, lowest and highest values."""
    if len(steps) <= POINTS:
        return steps, values, values, values
    parts = np.array_split(np.arange(len(steps)), POINTS)
    mean, low, high = (np.array([f(values[part]) for part in parts]) for f in (np.mean, np.min, np.max))
    return np.array([steps[part[-1]] for part in parts]), mean, low, high
