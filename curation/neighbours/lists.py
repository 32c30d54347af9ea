"""An inverted file: a shard's vectors list by list, of which a query looks in the nearest."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.neighbours.finite import refuse_non_finite
from curation.neighbours.join import group
from curation.neighbours.knn import Matches, Parts, nearest
from curation.neighbours.quantiser import Quantiser

_ROWS, _BOUNDS = "rows.npy", "bounds.npy"


@dataclass(frozen=True)
class Lists:
    """The order of a shard's vectors where it has lists.

    Attributes:
        quantiser: that chooses a vector's list.
        rows: [n] int64, the place of each vector's id among the ids; ascending in a list.
        bounds: [num_lists + 1] int64: list i has the vectors from bound i to bound i + 1.
    """

    quantiser: Quantiser
    rows: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, quantiser: Quantiser) -> "Lists":
        """Put vectors [n, d], which are in the order of the ids, into lists.

        Raises:
            ValueError: the quantiser is for vectors of another length.
        """
        return cls(quantiser, *group(quantiser.nearest(vectors, 1), quantiser.num_lists))

    def write(self, folder: Path) -> None:
        """Write what :meth:`read` reads; equal lists give equal bytes."""
        for name, array in ((_ROWS, self.rows), (_BOUNDS, self.bounds)):
            np.save(folder / name, array, allow_pickle=False)

    @classmethod
    def read(cls, folder: Path, quantiser: Quantiser) -> "Lists":
        """Read the lists of a shard.

        Raises:
            OSError: a file is missing.
            ValueError: a file is no array.
        """
        return cls(quantiser, *(np.load(folder / name, allow_pickle=False) for name in (_ROWS, _BOUNDS)))

    def matches(
        self, vectors: np.ndarray, queries: np.ndarray, k: int, alive: np.ndarray | None, num_probes: int
    ) -> Matches:
        """The k most similar living rows of every query in the lists nearest to it, by the places of their ids.

        Args:
            vectors: [n, d], list by list.
            queries: [q, d] of the same dtype.
            k: neighbours a query.
            alive: [n] bool, by id; None: all.
            num_probes: lists searched for each query.

        Raises:
            ValueError: ``k`` is below 1, or a vector is not finite.
        """
        refuse_non_finite(queries, "the queries")
        looked_in = self.quantiser.nearest(queries, min(num_probes, self.quantiser.num_lists))
        living = None if alive is None else alive[self.rows]
        return nearest(vectors, queries, k, living, Parts(self.bounds, looked_in, self.rows))
