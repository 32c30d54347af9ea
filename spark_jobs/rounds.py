"""Rounds of k-means that outlive their process: the centroids of each are in the store before the next begins."""

import io
from collections.abc import Callable

import numpy as np

from curation.clusters.kmeans import weak_share
from curation.store import Store, locate
from curation.whole_files import put_whole

FOLDER = "rounds"  # below the store; gone when the run is done


class Rounds:
    """The rounds of one run."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.uri = store.path(FOLDER, run_id)
        self._filesystem, self._path = locate(self.uri)

    def train(
        self,
        start: Callable[[], np.ndarray],
        improved: Callable[[np.ndarray, float], np.ndarray],
        num_iterations: int,
    ) -> np.ndarray:
        """Do the rounds that are left, as ``curation.clusters.kmeans.train`` does them.

        Args:
            start: the centroids to begin with.
            improved: centroids [k, d], and the share of ``refills``, to those after one more round; a pure function.
            num_iterations: rounds at most.

        Returns:
            [k, d] float32, which :meth:`last` gives too.
        """
        numbers = self._numbers()
        number, centroids = (numbers[-1], self.last()) if numbers else (0, start())
        self._put(number, centroids)
        while number < num_iterations:
            before, centroids = centroids, improved(centroids, weak_share(number, num_iterations))
            number += 1
            self._put(number, centroids)
            if np.array_equal(before, centroids):
                break
        return centroids

    def last(self) -> np.ndarray:
        """[k, d] float32: the centroids after the last round that is done."""
        with self._filesystem.open(self._file(self._numbers()[-1]), "rb") as file:
            return np.load(io.BytesIO(file.read()), allow_pickle=False)

    def remove(self) -> None:
        """Remove what is there."""
        if self._filesystem.exists(self._path):
            self._filesystem.rm(self._path, recursive=True)

    def _numbers(self) -> list[int]:
        """Of the rounds that are there, ascending."""
        if not self._filesystem.exists(self._path):
            return []
        names = [path.rpartition("/")[2] for path in self._filesystem.ls(self._path, detail=False)]
        return sorted(int(name.removesuffix(".npy")) for name in names if name.endswith(".npy"))

    def _file(self, number: int) -> str:
        return f"{self._path}/{number:06}.npy"

    def _put(self, number: int, centroids: np.ndarray) -> None:
        data = io.BytesIO()
        np.save(data, centroids, allow_pickle=False)
        put_whole(self._filesystem, self._file(number), data.getvalue())
        for old in self._numbers():
            if old < number:
                self._filesystem.rm(self._file(old))
