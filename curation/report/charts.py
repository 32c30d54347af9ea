"""Charts as inline SVG. Words that must stay readable on a narrow screen stand in the page, not in the picture."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

KEPT = "#1f7a5c"
# Distinct at a glance and beside each other, on white.
PALETTE = (
    "#d9822b", "#b23a48", "#5b6abf", "#a66fb5", "#c7a500", "#4d9fb8", "#8a5a44", "#e58a9f", "#7f8c8d", "#2e5d87",
    "#93a83a", "#6d4c7d",
)  # fmt: skip
WIDTH, HEIGHT = 520, 280  # user units of a line chart
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 12, 36
WIDE = 1000  # of a chart of clusters
_PLOT, _ROW = 220, 34  # heights: of its columns, of the line of a query set
_COLUMNS = 160
_BELOW_ONE = 0.3  # powers of ten below 1 at which columns begin, so that one image is seen
_POOL = "#cdd4da"


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in the order given; the palette repeats after twelve."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


def bar(parts: Sequence[tuple[str, int, str]], scale: int, label: str) -> Markup:
    """One horizontal stacked bar that fills its box.

    Args:
        parts: (name, count, colour), from the left.
        scale: count that fills the whole width.
        label: the bar in words, for readers who do not see it.
    """
    unit = 1000 / max(scale, 1)
    rects, x = [], 0.0
    for name, count, colour in parts:
        if count:
            rects.append(
                Markup(
                    '<rect x="{:.2f}" y="0" width="{:.2f}" height="10" fill="{}"><title>{}: {:,}</title></rect>'
                ).format(x, count * unit, colour, name, count)
            )
        x += count * unit
    return Markup(
        '<svg class="bar" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, Markup().join(rects))


def whisker(value: float, low: float, high: float, label: str) -> Markup:
    """A share between 0 and 1 as a bar with its interval."""
    return Markup(
        '<svg class="whisker" viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect width="1000" height="20" fill="#eef0f2"/><rect width="{:.1f}" height="20" fill="#a9cdbf"/>'
        '<rect x="{:.1f}" y="7" width="{:.1f}" height="6" fill="{}"/></svg>'
    ).format(label, value * 1000, low * 1000, max(1.0, (high - low) * 1000), KEPT)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_label: str, label: str) -> Markup:
    """Curves over one pair of axes; points that are not finite are left out.

    Args:
        series: name -> (x, y) points in the order of x; drawn in the colours of ``colours``.
        x_label: written under the axis.
        label: the chart in words, for readers who do not see it.
    """
    finite = {n: [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)] for n, points in series.items()}
    xs = [x for points in finite.values() for x, _ in points]
    ys = [y for points in finite.values() for _, y in points]
    if not xs:
        return Markup()
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-12)
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM),
        )

    marks = []
    for tick in y_ticks:
        _, y = place(x_low, tick)
        marks.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#e3e6e9"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            x, _ = place(tick, y_low)
            anchor = "end" if x > WIDTH - 30 else "middle"
            marks.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{tick:g}</text>')
    marks.append(f'<text x="{(WIDTH + LEFT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for name, colour in colours(list(series)).items():
        path = "L".join("{:.1f} {:.1f}".format(*place(x, y)) for x, y in finite[name])
        if path:
            marks.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return Markup(
        '<svg class="lines" viewBox="0 0 {} {}" role="img" aria-label="{}" font-size="13" fill="#48525c">{}</svg>'
    ).format(WIDTH, HEIGHT, label, Markup("".join(marks)))


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) that span ``low`` to ``high``."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, last + 1)]


def concepts(before: Sequence[int], after: Sequence[int], marks: Mapping[str, Sequence[int]], label: str) -> Markup:
    """Sizes of clusters on a logarithmic axis before and after a selection, and below where each query set lies.

    Args:
        before: images of each cluster, in the order in which they are drawn, from the left.
        after: those of them, or besides them, that were selected.
        marks: name -> queries in each cluster; drawn darker where more are.
        label: the chart in words, for readers who do not see it.
    """
    bins = [list(part) for part in _parts(len(before), _COLUMNS)]
    width = (WIDE - LEFT - RIGHT) / len(bins)
    highest = max(1, math.ceil(math.log10(max(*before, *after, 2))))
    floor = TOP + _PLOT

    def top(value: float) -> float:
        return floor - _PLOT * (math.log10(value) + _BELOW_ONE) / (highest + _BELOW_ONE)

    marked = [
        f'<path d="M{LEFT} {top(10**power):.1f}H{WIDE - RIGHT}" stroke="#e3e6e9"/>'
        f'<text x="{LEFT - 6}" y="{top(10**power) + 4:.1f}" text-anchor="end">{10**power:,}</text>'
        for power in range(highest + 1)
    ]
    for number, part in enumerate(bins):
        for sizes_of, colour, inset in ((before, _POOL, 0.08), (after, KEPT, 0.26)):
            mean = sum(sizes_of[i] for i in part) / len(part)
            if mean > 10**-_BELOW_ONE:
                x, y = LEFT + (number + inset) * width, top(mean)
                marked.append(
                    f'<rect x="{x:.2f}" y="{y:.1f}" width="{(1 - 2 * inset) * width:.2f}" height="{floor - y:.1f}" '
                    f'fill="{colour}"/>'
                )
    for row, (name, queries) in enumerate(marks.items()):
        y, most = floor + 34 + row * _ROW, max(max(queries, default=0), 1)
        marked.append(f'<text x="{LEFT}" y="{y}">{escape(name)}</text>')
        marked.append(f'<path d="M{LEFT} {y + 17.5}H{WIDE - RIGHT}" stroke="#e3e6e9"/>')
        for number, part in enumerate(bins):
            if held := max(queries[i] for i in part):
                marked.append(
                    f'<rect x="{LEFT + (number + 0.08) * width:.2f}" y="{y + 6}" width="{0.84 * width:.2f}" '
                    f'height="11" fill="{PALETTE[2]}" opacity="{0.25 + 0.75 * held / most:.2f}"/>'
                )
    what = "clusters, the largest first" if len(bins) == len(before) else f"{len(before):,} clusters, the largest first"
    marked.append(f'<text x="{WIDE - RIGHT}" y="{floor + 16}" text-anchor="end">{what}</text>')
    height = floor + 28 + _ROW * len(marks)
    return Markup(
        '<svg class="concepts" viewBox="0 0 {} {}" role="img" aria-label="{}" font-size="12" fill="#48525c">{}</svg>'
    ).format(WIDE, height, label, Markup("".join(marked)))


def _parts(num: int, most: int) -> list[range]:
    """0 to ``num`` cut into ``most`` ranges of about one length, or into single numbers where there are fewer."""
    count = min(num, most)
    return [range(i * num // count, (i + 1) * num // count) for i in range(count)]
