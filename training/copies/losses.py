"""SSCD's objective: contrastive, with several positives under mixing, and an entropy term that spreads."""

import torch
from torch import Tensor


def share_content(contents: Tensor) -> Tensor:
    """Which views show a common source.

    Args:
        contents: [n, 2] int64, the sources of each view; a view of one source names it twice.

    Returns:
        [n, n] bool, false on the diagonal.
    """
    alike = (contents[:, None, :, None] == contents[None, :, None, :]).flatten(2).any(dim=2)
    return alike & ~torch.eye(len(contents), dtype=torch.bool, device=contents.device)


def contrastive(vectors: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """InfoNCE: each positive of a view against all its negatives, the mean over positives, then over views.

    The other positives stay out of the denominator (SSCD, section 4.3).

    Args:
        vectors: [n, d] of unit length.
        positive: [n, n] bool from :func:`share_content`, at least one in each row.
        temperature: divides the similarities.
    """
    logits = vectors @ vectors.T / temperature
    diagonal = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    negatives = logits.masked_fill(positive | diagonal, -torch.inf).logsumexp(dim=1, keepdim=True)
    terms = torch.logaddexp(logits, negatives) - logits
    return ((terms * positive).sum(dim=1) / positive.sum(dim=1)).mean()


def entropy(vectors: Tensor, positive: Tensor) -> Tensor:
    """Minus the mean log distance to the nearest view of other content (SSCD, equation 4).

    Args:
        vectors: [n, d] of unit length.
        positive: [n, n] bool; these and the diagonal are no neighbours.
    """
    with torch.no_grad():
        similarity = vectors @ vectors.T
        similarity[positive] = -2
        nearest = similarity.fill_diagonal_(-2).argmax(dim=1)
    distance = (vectors - vectors[nearest]).square().sum(dim=1).add(1e-12).sqrt()
    return -distance.clamp(min=1e-4).log().mean()
