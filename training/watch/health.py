"""A panel of numbers that tell early whether features collapse or scores run away; all of the teacher.

What they are made of is noted on the device while steps pass, and computed where the panel is due.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from training.processes import Processes

WINDOW = 1024  # features, at least, where as many passed since the last panel
_ROWS = 16  # of targets at a time


class Health:
    """Notes what the teacher makes of the steps before a panel, and computes it.

    Args:
        every: steps between two panels; 0: none.
        batch_size_global: images a step.
        processes: all of them call :meth:`panel` at the same steps.
    """

    def __init__(self, every: int, batch_size_global: int, processes: Processes) -> None:
        self._every, self._processes = every, processes
        self._steps = min(-(-WINDOW // batch_size_global), every)
        self._noting = False
        self._assigned = self._chosen = torch.zeros(())  # [K] once there is something
        self._features: list[Tensor] = []
        self._entropies: list[Tensor] = []
        self._largest: list[Tensor] = []

    def prepare(self, step: int) -> None:
        """Tell the number of the step that comes next, from 1."""
        self._noting = self._every > 0 and -step % self._every < self._steps

    def note_scores(self, scores: Tensor) -> None:
        """Teacher's scores [n, K], before they become targets."""
        if self._noting:
            self._largest.append(scores.abs().amax() if len(scores) else scores.new_zeros(()))  # no patch is masked

    def note(self, class_tokens: Tensor, targets: Tensor) -> None:
        """What the teacher made of the global crops.

        Args:
            class_tokens: [B, D], of one global crop of every image.
            targets: [n, K], of the class tokens or, where those are not compared, of masked patches.
        """
        if not self._noting:
            return
        self._features.append(F.normalize(class_tokens.float(), dim=-1))
        every = [torch.special.entr(rows).sum() for rows in targets.split(_ROWS)]
        self._entropies.append(torch.stack([torch.stack(every).sum(), targets.new_full((), len(targets))]))
        self._assigned = self._assigned + targets.sum(0)
        counts = targets.new_zeros(targets.shape[1])
        self._chosen = self._chosen + counts.scatter_add_(0, targets.argmax(1), counts.new_ones(len(targets)))

    def panel(self, step: int) -> dict[str, Tensor]:
        """The numbers of the window that ends with ``step``, as scalars on the device; none where no panel is due."""
        if not self._noting or step % self._every:
            return {}
        newest = self._processes.gather(self._features[-1])
        features = self._processes.gather(torch.cat(self._features))
        entropy, num_targets = self._processes.total(torch.stack(self._entropies).sum(0))
        assigned, chosen = (self._processes.total(x) for x in (self._assigned, self._chosen))
        largest = self._processes.gather(torch.stack(self._largest).amax().view(1)).amax()
        num_prototypes = len(assigned)
        self._forget()
        found = {
            "teacher_entropy": entropy / num_targets / math.log(num_prototypes),
            "prototype_use": (chosen > 0).sum() / num_targets.clamp(max=num_prototypes),
            "prototype_perplexity": perplexity(assigned) / num_prototypes,
            "effective_rank": effective_rank(features),
            "features": features.new_full((), len(features)),
            "largest_logit": largest,
        }
        if len(newest) > 1:
            found["nearest_distance"] = nearest_distance(newest)
        found["effective_rank_share"] = found["effective_rank"] / min(features.shape)
        return {f"health_{name}": value for name, value in found.items()}

    def _forget(self) -> None:
        self._features, self._entropies, self._largest = [], [], []
        self._assigned = self._chosen = torch.zeros(())


def perplexity(weights: Tensor) -> Tensor:
    """Exp of the entropy of weights [K], which need not sum to 1: how many of them count."""
    return torch.special.entr(weights / weights.sum()).sum().exp()


def effective_rank(features: Tensor) -> Tensor:
    """Exp of the entropy of the singular values of features [n, D] (RankMe; Garrido et al., 2023); 1 to min(n, D).

    Singular values are square roots, so the smaller of both products with itself is taken in fp64.
    """
    x = features.double()
    product = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T
    return perplexity(torch.linalg.eigvalsh(product).clamp(min=0).sqrt())


def nearest_distance(features: Tensor) -> Tensor:
    """Mean distance of unit vectors [n, D] to the nearest of the others: 0 where all agree, at most 2."""
    nearest = (features @ features.T).fill_diagonal_(-2).argmax(1)
    return F.pairwise_distance(features, features[nearest], eps=0.0).mean()
