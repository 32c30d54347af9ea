"""Weighted k-nearest-neighbour classification by exact search (Wu et al., 2018; DINOv2, section 7.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

# Fixed, so that a result cannot depend on them: 1,024 x 65,536 similarities in float32 are 256 MiB.
TEST_CHUNK, TRAIN_CHUNK = 1024, 65_536


def nearest(train: Tensor, test: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most similar train rows of every test row, most similar first.

    Args:
        train: (N, D), L2-normalised.
        test: (M, D), L2-normalised.
        k: at most N.

    Returns:
        Cosine similarities (M, k) and row numbers (M, k).
    """
    similarities, rows = [], []
    for queries in test.split(TEST_CHUNK):
        best = queries.new_empty(len(queries), 0)
        best_rows = torch.empty(len(queries), 0, dtype=torch.long, device=test.device)
        for start in range(0, len(train), TRAIN_CHUNK):
            scores = queries @ train[start : start + TRAIN_CHUNK].T
            top, columns = scores.topk(min(k, scores.shape[1]), dim=1)
            best, order = torch.cat([best, top], dim=1).topk(min(k, best.shape[1] + top.shape[1]), dim=1)
            best_rows = torch.cat([best_rows, columns + start], dim=1).gather(1, order)
        similarities.append(best)
        rows.append(best_rows)
    return torch.cat(similarities), torch.cat(rows)


def votes(
    train: Tensor, train_labels: Tensor, test: Tensor, num_classes: int, ks: Sequence[int], temperature: float
) -> dict[int, Tensor]:
    """Class votes of every test row for every k: softmax(similarity / temperature) over the largest k, cut to each k.

    Args:
        train: (N, D), L2-normalised.
        train_labels: (N,) int64.
        test: (M, D), L2-normalised.
        num_classes: C, the width of the answer.
        ks: each at most N.
        temperature: of the softmax; 0.07 in the paper.

    Returns:
        k -> (M, C) float32. A row sums to the share of the largest k's weight that its first k neighbours hold.
    """
    similarities, rows = nearest(train, test, max(ks))
    weights = (similarities.float() / temperature).softmax(dim=1)
    labels = train_labels[rows]
    empty = weights.new_zeros(len(test), num_classes)
    return {k: empty.scatter_add(1, labels[:, :k], weights[:, :k]) for k in ks}
