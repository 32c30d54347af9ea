"""How well a similarity finds copies: micro-AP and recall at 90 % precision, with intervals from resampled pictures."""

from dataclasses import dataclass

import numpy as np

ROUNDS = 1000
PRECISION = 0.9


@dataclass(frozen=True)
class Ranking:
    """All (query, reference) candidates in one ranking, as counts above each right one; ties count as above.

    Attributes:
        thresholds: [p] scores of the right candidates, best first.
        sources: [p] int64, the source of each.
        above: [p, s] float64, candidates of each source that score at least the threshold.
        right_above: [p, s] float64, the right ones among them.
    """

    thresholds: np.ndarray
    sources: np.ndarray
    above: np.ndarray
    right_above: np.ndarray


def rank(scores: np.ndarray, right: np.ndarray, sources: np.ndarray) -> Ranking:
    """Rank the candidates of all queries together.

    Args:
        scores: [q, r] similarity of every query to every reference.
        right: [q, r] bool, where the reference is what the query was made from.
        sources: [q] int64, 0 to s - 1; queries made from one picture share a source and are resampled together.

    Raises:
        ValueError: no candidate is right, or a score is not finite.
    """
    if not right.any():
        raise ValueError("no query has a reference among those given; a ranking needs one at least")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite; give a picture without a vector the similarity 0")
    num_sources = int(sources.max()) + 1
    query = np.nonzero(right)[0]
    order = np.argsort(-scores[right], kind="stable")
    thresholds, owner = scores[right][order], sources[query[order]]
    # a candidate counts from the first threshold on that is no higher than its score
    first = np.searchsorted(-thresholds, -scores, side="left")
    source = np.broadcast_to(sources[:, None], scores.shape)

    def counts(which: np.ndarray) -> np.ndarray:
        place = first[which] * num_sources + source[which]
        flat = np.bincount(place, minlength=(len(thresholds) + 1) * num_sources)
        return flat.reshape(-1, num_sources)[:-1].cumsum(axis=0).astype(np.float64)

    return Ranking(thresholds, owner, counts(np.ones_like(right)), counts(right))


def micro_ap(ranking: Ranking, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision of the one ranking of all candidates (DISC's measure).

    Args:
        ranking: as :func:`rank` gives it.
        weights: [s, n] how often each source counts, for n resamplings; all once by default, then n is 1.

    Returns:
        [n] float64.
    """
    precision, weights = _precision(ranking, weights)
    weight = weights[ranking.sources]
    return (precision * weight).sum(axis=0) / np.maximum(weight.sum(axis=0), 1)


def recall_at_precision(
    ranking: Ranking, weights: np.ndarray | None = None, precision: float = PRECISION
) -> tuple[np.ndarray, np.ndarray]:
    """Greatest recall at which the ranking is still so precise.

    Returns:
        recalls [n] float64 and their thresholds [n], infinite where no threshold is precise enough.
    """
    reached, weights = _precision(ranking, weights)
    found = ranking.right_above @ weights
    good = reached >= precision
    last = len(good) - 1 - good[::-1].argmax(axis=0)
    columns = np.arange(weights.shape[1])
    total = np.maximum(weights[ranking.sources].sum(axis=0), 1)
    any_good = good.any(axis=0)
    recall = np.where(any_good, found[last, columns] / total, 0.0)
    return recall, np.where(any_good, ranking.thresholds[last], np.inf)


def figures(ranking: Ranking, seed: int = 0) -> dict[str, float]:
    """Both measures, each with ``_low`` and ``_high``: the middle 95 % of resamplings of the sources (bootstrap)."""
    num_sources = ranking.above.shape[1]
    drawn = np.random.default_rng(seed).multinomial(num_sources, np.full(num_sources, 1 / num_sources), ROUNDS).T
    weights = drawn.astype(np.float64)
    recall, threshold = recall_at_precision(ranking)
    told = {"threshold_at_p90": float(threshold[0])}
    for name, value, resampled in (
        ("micro_ap", micro_ap(ranking), micro_ap(ranking, weights)),
        ("recall_at_p90", recall, recall_at_precision(ranking, weights)[0]),
    ):
        low, high = np.quantile(resampled, (0.025, 0.975))
        told |= {name: float(value[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
    return told


def _precision(ranking: Ranking, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """[p, n] share of right candidates above each threshold, and the weights [s, n]."""
    if weights is None:
        weights = np.ones((ranking.above.shape[1], 1))
    return ranking.right_above @ weights / np.maximum(ranking.above @ weights, 1), weights
