"""The recall certificate: of the edges that an exact search finds from a random sample, the share that a join found."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

_Z = 1.959964  # of a 95 % interval


@dataclass(frozen=True)
class Certificate:
    """Recall of a join, measured on a sample.

    Attributes:
        images: sampled, whether or not they have edges.
        edges: (sampled image, neighbour) pairs that the exact search finds.
        found: those of them that the join found.
        recall: found / edges; None where there was no edge to find.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    images: int
    edges: int
    found: int
    recall: float | None
    low: float
    high: float

    def __str__(self) -> str:
        if self.recall is None:
            return f"recall of edges: unknown, none of {self.images:,} sampled images has one"
        return (
            f"recall of edges {self.recall:.4f} (95 % interval {self.low:.4f} to {self.high:.4f}): "
            f"{self.found:,} of {self.edges:,} ends of edges at {self.images:,} sampled images"
        )

    def metrics(self) -> dict[str, Any]:
        """For a run's record."""
        return asdict(self)


def certify(num_images: int, edges: np.ndarray, found: np.ndarray) -> Certificate:
    """Estimate recall from what was found for each sampled image.

    Every edge has two ends that may be sampled, so the share over (image, neighbour) pairs estimates the share of
    edges. Edges of one image are found or missed together; the interval is Wilson's, with as many independent edges
    as the variance between images allows (the design effect of a ratio estimate). Where the sample shows no variance, a
    group of copies counts as one edge for each of its sampled images.

    Args:
        num_images: sampled images.
        edges: [q] integers, of each sampled image that has any.
        found: [q] integers, at most ``edges``.

    Raises:
        ValueError: more were found than there are.
    """
    edges, found = np.asarray(edges, np.int64), np.asarray(found, np.int64)
    if (found > edges).any() or (edges < 1).any():
        raise ValueError("an image has more edges found than it has; was the exact search made at a higher threshold?")
    total, hits, clusters = int(edges.sum()), int(found.sum()), len(edges)
    if not total:
        return Certificate(num_images, 0, 0, None, 0.0, 1.0)
    recall = hits / total
    design_effect = total / clusters
    if 0 < hits < total and clusters > 1:
        between = clusters / (clusters - 1) * float(((found - recall * edges) ** 2).sum()) / total**2
        design_effect = max(1.0, between / (recall * (1 - recall) / total))
    low, high = _wilson(recall, total / design_effect)
    return Certificate(num_images, total, hits, recall, low, high)


def _wilson(share: float, n: float) -> tuple[float, float]:
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * (share * (1 - share) / n + _Z**2 / (4 * n**2)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
