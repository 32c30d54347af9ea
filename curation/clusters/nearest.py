"""The nearest centroid of every vector, exactly, at the speed of products of bytes; and what need not be looked at.

A product of vectors rounded to bytes proposes centroids: those that the rounding leaves within reach of the best. Their
similarity is then computed as ``pair_similarities`` does, so no bit of the result depends on batches, threads or
machines.

Between two rounds of k-means centroids move a little. For every vector and group of centroids that lie close together
there is a bound that no rival in that group is above; a round raises it by as much as the group's centroids have moved,
and a group is looked at again only where the bound reaches the similarity to the vector's own centroid (Yinyang
k-means: Ding et al. 2015, here on the sphere). A few centroids move far more than the rest, which would spoil their
groups' bounds; so those are compared with every vector. Whatever is passed over could not have been the nearest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from curation.clusters.codes import STEP_ROWS, Codes
from curation.neighbours.compiled import compiled
from curation.neighbours.compute import device, whole_products
from curation.neighbours.similarity import halving_sum, similarities_of_rows
from curation.neighbours.tiles import Operand, margin

GROUP = 64  # centroids of a group at least
LONGEST = 1.01  # of a vector that counts as one of unit length
_CHUNK_VALUES = 2**21  # of a chunk of vectors, which stays in the cache that cores share
_BLOCK_ROWS = 1024  # that are multiplied with all centroids at once
_BLOCK_PRODUCTS = 2**21
_UNITS = 4096.0  # of a bound, a unit
_NO_BOUND = 32767  # higher than any similarity
_FAR_SHARE = 8  # of so many centroids one, which has moved farthest, is compared with all vectors
_SLACK = 1e-6  # above the rounding of a similarity to float32


@dataclass
class Places:
    """Where vectors belong, row by row.

    Attributes:
        clusters: [n] int32; -1 where nothing is known yet.
        similarities: [n] float32 to that centroid, as ``pair_similarities`` computes it.
        bounds: [n, num_groups] int16: what no other centroid of a group is above, less what the group had moved until
            then; in units. No column where bounds are not wanted.
    """

    clusters: np.ndarray
    similarities: np.ndarray
    bounds: np.ndarray

    @classmethod
    def unknown(cls, num_rows: int, num_groups: int = 0) -> "Places":
        """Of vectors that were not assigned yet."""
        return cls(
            np.full(num_rows, -1, np.int32),
            np.full(num_rows, -np.inf, np.float32),
            np.full((num_rows, num_groups), _NO_BOUND, np.int16),
        )

    def rows(self, start: int, stop: int) -> "Places":
        """A view of some rows."""
        return Places(self.clusters[start:stop], self.similarities[start:stop], self.bounds[start:stop])


@dataclass(frozen=True)
class Groups:
    """Centroids in an order that puts those side by side that are alike, cut into groups of one width.

    Attributes:
        order: [k] int32, the cluster at every place.
        width: places of a group.
    """

    order: np.ndarray
    width: int

    @classmethod
    def of(cls, centroids: np.ndarray, most: int) -> "Groups":
        """At most so many groups, of no fewer than :data:`GROUP` centroids each."""
        k = len(centroids)
        width = -(-max(GROUP, -(-k // max(most, 1))) // GROUP) * GROUP
        num = -(-k // width)
        middles = centroids[:: max(1, k // num)][:num]
        for _ in range(4 if num > 1 else 0):
            places = Places.unknown(k)
            Nearest(middles).update(centroids, places)
            sums = np.zeros(middles.shape)
            np.add.at(sums, places.clusters, centroids)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            middles = np.where(lengths > 0, sums / np.where(lengths > 0, lengths, 1), middles).astype(np.float32)
        order = np.argsort(places.clusters, kind="stable") if num > 1 else np.arange(k)
        return cls(order.astype(np.int32), width)

    def __len__(self) -> int:
        return -(-len(self.order) // self.width)

    def of_clusters(self) -> np.ndarray:
        """[k] int32: the group of every cluster."""
        group = np.empty(len(self.order), np.int32)
        group[self.order] = np.arange(len(self.order)) // self.width
        return group


@dataclass(frozen=True)
class Moves:
    """How far centroids have moved since the bounds began.

    Attributes:
        groups: [num_groups] float64: at least as far as each centroid of the group, but for the far ones of each round.
        far: ascending places of the centroids that have moved farthest in the last round.
    """

    groups: np.ndarray
    far: np.ndarray

    def further(self, before: np.ndarray, after: np.ndarray, groups: Groups) -> "Moves":
        """One round on: [k, d] centroids before and after it."""
        length = np.linalg.norm(after.astype(np.float64) - before, axis=1)[groups.order]
        far = np.sort(np.argpartition(length, -(len(length) // _FAR_SHARE))[-(len(length) // _FAR_SHARE) :])
        far = far[length[far] > 0]
        length[far] = 0
        most = np.maximum.reduceat(length, np.arange(0, len(length), groups.width))
        return Moves(self.groups + most * LONGEST + 1e-9, far)


class Nearest:
    """Centroids that are looked for."""

    def __init__(self, centroids: np.ndarray, groups: Groups | None = None, moves: Moves | None = None) -> None:
        """Round the centroids.

        Args:
            centroids: [k, d] float32 of unit length.
            groups: needed for bounds; None: in the order given.
            moves: since the bounds began; None: they begin now.

        Raises:
            ValueError: a centroid is not finite.
        """
        self.groups = groups or Groups(np.arange(len(centroids), dtype=np.int32), 4 * GROUP)
        self._centroids = np.ascontiguousarray(centroids, np.float32)
        self._moves = moves or Moves(np.zeros(len(self.groups)), np.empty(0, np.int64))
        self._codes = Codes.of(self._centroids[self.groups.order], one_step=True)
        self._group_of = self.groups.of_clusters()

    def update(self, vectors: np.ndarray, places: Places) -> None:
        """Put vectors where they belong, ties to the lowest cluster.

        Args:
            vectors: [n, d] float16 or float32; no longer than :data:`LONGEST` where there are bounds.
            places: of these vectors, as the last update left them or unknown; changed.

        Raises:
            ValueError: a vector is not finite, or too long for bounds.
        """
        step = chunk_rows(vectors.shape[1])
        for start in range(0, len(vectors), step):
            part = np.require(vectors[start : start + step], requirements=["C", "W"])
            exact = torch.from_numpy(part).float().numpy()  # numpy takes several times as long
            chunk = Chunk(part, exact, places.rows(start, start + len(part)))
            _own_similarities(exact, self._centroids, chunk.places.clusters, chunk.places.similarities)
            if device().type == "cuda":
                self.on_gpu(chunk)
            else:
                self._look_at_what_may_be_nearer(chunk)

    def _look_at_what_may_be_nearer(self, chunk: "Chunk") -> None:
        need, far = self.needed(chunk), self._moves.far
        if need.mean() > 1 - 2 / _FAR_SHARE:
            self._look_at_all(chunk)
            return
        codes = self._codes_of(chunk)
        if len(far):
            self._look_at(chunk, codes, np.arange(len(chunk.exact)), far)
            need = self.needed(chunk)
        num, width = len(self.groups.order), self.groups.width
        for group in range(len(self.groups)):
            members = np.arange(group * width, min((group + 1) * width, num))
            self._look_at(chunk, codes, np.flatnonzero(need[group]), members)

    def _look_at_all(self, chunk: "Chunk") -> None:
        """Compare all vectors with all centroids, so many rows at a time that their products stay in the cache."""
        members = np.arange(len(self.groups.order))
        step = max(STEP_ROWS, min(_BLOCK_ROWS, _BLOCK_PRODUCTS // len(members) // STEP_ROWS * STEP_ROWS))
        for start in range(0, len(chunk.exact), step):
            part = chunk.rows(start, start + step)
            codes = self._codes_of(part)
            products = whole_products(codes.values, self._codes.values)
            self._settle(part, codes, products, np.arange(len(part.exact)), members)

    def _codes_of(self, chunk: "Chunk") -> Codes:
        codes = Codes.of(chunk.exact)
        if chunk.places.bounds.shape[1] and codes.lengths.max() > LONGEST:
            longest = codes.lengths.max()
            raise ValueError(f"a vector is {longest:.3g} long; k-means on the sphere wants them of unit length")
        return codes

    def needed(self, chunk: "Chunk") -> np.ndarray:
        """[num_groups, n] bool: which groups may hold a centroid that is no farther than the vector's own."""
        need = np.ones((len(self.groups), len(chunk.exact)), bool)
        if chunk.places.bounds.shape[1]:
            moved = np.ceil(self._moves.groups * _UNITS).astype(np.int32)
            _needed(chunk.places.similarities, chunk.places.bounds, moved, need)
        return need

    def _look_at(self, chunk: "Chunk", codes: Codes, rows: np.ndarray, members: np.ndarray) -> None:
        """Compare vectors with centroids.

        Args:
            chunk: of vectors.
            codes: of all of them.
            rows: of those to compare.
            members: ascending places: those of one group, or some of any group.
        """
        if not len(rows):
            return
        values = codes.values
        if len(rows) < len(chunk.exact):
            filled = np.zeros(-(-len(rows) // STEP_ROWS) * STEP_ROWS, np.int64)
            filled[: len(rows)] = rows
            values = values.index_select(0, torch.from_numpy(filled))
        columns, first, width = self._codes.values, int(members[0]), self.groups.width
        if first % width == 0 and len(members) == len(self.groups.order[first : first + width]):
            columns = columns[first : first + width]
        else:
            columns = columns.index_select(0, torch.from_numpy(members))
        self._settle(chunk, codes, whole_products(values, columns), rows, members)

    def _settle(self, chunk: "Chunk", codes: Codes, products: Tensor, rows: np.ndarray, members: np.ndarray) -> None:
        """Let products [rows, members] decide what is looked at exactly.

        With a = x + r and b = y + s, x and y rounded, a b - x y = a s + r y, whose terms Cauchy and Schwarz bound.
        """
        places, moved = chunk.places, self._codes.moved.max()
        errors = codes.lengths * moved + codes.moved * (self._codes.lengths.max() + moved) + _SLACK
        clusters = self.groups.order[members]
        group = self._group_of[clusters]
        starts = np.append(np.flatnonzero(np.append(True, group[1:] != group[:-1])), len(group))
        ends_group = members[-1] == len(self.groups.order) - 1 or (members[-1] + 1) % self.groups.width == 0
        is_whole = len(members) == members[-1] + 1 - members[0] and members[0] % self.groups.width == 0 and ends_group
        _settle(
            products.numpy(), codes.steps * self._codes.steps[0], errors, rows, clusters, starts, is_whole,
            self._group_of, chunk.exact, self._centroids, self._moves.groups,
            places.clusters, places.similarities, places.bounds,
        )  # fmt: skip

    def on_gpu(self, chunk: "Chunk") -> None:
        """One product with all centroids, of which those within reach come back: faster there than choosing."""
        vectors, centroids = Operand.of(chunk.vectors), Operand.of(self._centroids)
        products = (vectors.values @ centroids.values.T)[: len(chunk.vectors), : len(self._centroids)].float()
        limit = products.amax(dim=1, keepdim=True)
        limit = limit - limit.abs() * 2.0**-7 - 2.01 * (margin(vectors, centroids) + _SLACK)  # bfloat16 twice
        row, cluster = (found.cpu().numpy() for found in torch.nonzero(products >= limit, as_tuple=True))
        similarity = similarities_of_rows(chunk.exact, self._centroids, row, cluster)
        order = np.lexsort((cluster, -similarity, row))
        first = order[np.unique(row[order], return_index=True)[1]]
        chunk.places.clusters[:], chunk.places.similarities[:] = cluster[first], similarity[first]


@dataclass(frozen=True)
class Chunk:
    """Vectors [n, d] as they are stored and as float32, and where they belong."""

    vectors: np.ndarray
    exact: np.ndarray
    places: Places

    def rows(self, start: int, stop: int) -> "Chunk":
        """A view of some rows."""
        return Chunk(self.vectors[start:stop], self.exact[start:stop], self.places.rows(start, stop))


def chunk_rows(dim: int) -> int:
    """Vectors that are looked at together; no result depends on it."""
    return max(STEP_ROWS, _CHUNK_VALUES // max(dim, 1) // STEP_ROWS * STEP_ROWS)


@compiled
def _own_similarities(
    vectors: np.ndarray, centroids: np.ndarray, clusters: np.ndarray, similarities: np.ndarray
) -> None:
    terms = np.zeros(max(vectors.shape[1], 1), np.float64)
    for row in range(len(vectors)):
        if clusters[row] >= 0:
            similarities[row] = halving_sum(vectors[row], centroids[clusters[row]], terms)


@compiled
def _needed(similarities: np.ndarray, bounds: np.ndarray, moved: np.ndarray, need: np.ndarray) -> None:
    """Which groups may hold a centroid that is no farther than a row's own: need [num_groups, n]."""
    for row in range(len(bounds)):
        own = np.float64(similarities[row]) - 1e-6
        least = np.int32(np.floor(own * 4096.0)) if own > -4.0 else np.int32(-(2**30))
        for group in range(bounds.shape[1]):
            need[group, row] = np.int32(bounds[row, group]) + moved[group] >= least


@compiled
def _settle(
    products: np.ndarray,
    steps: np.ndarray,
    errors: np.ndarray,
    rows: np.ndarray,
    members: np.ndarray,
    starts: np.ndarray,
    is_whole: bool,
    group_of: np.ndarray,
    vectors: np.ndarray,
    centroids: np.ndarray,
    moved: np.ndarray,
    clusters: np.ndarray,
    similarities: np.ndarray,
    bounds: np.ndarray,
) -> None:
    """Move every row to the nearest of its own centroid and some others, and bound those that it is not moved to.

    The j-th row of the products is that of vector ``rows[j]``; a similarity is a product times the vector's step, but
    for its error. The members lie in groups one after the other, which begin at ``starts`` and are there as a whole or
    in part.
    """
    terms = np.zeros(max(vectors.shape[1], 1), np.float64)
    maxima = np.empty(len(starts) - 1, np.int32)
    for j in range(len(rows)):
        row, found = rows[j], products[j]
        step, error = steps[row], errors[row]
        before, before_similarity = clusters[row], similarities[row]
        most = np.int32(-(2**31) + 1)
        for part in range(len(maxima)):
            highest = np.int32(-(2**31) + 1)
            for i in range(starts[part], starts[part + 1]):  # vectorised
                highest = max(highest, found[i])
            maxima[part] = highest
            most = max(most, highest)
        limit = _reached(before_similarity, error, step)
        for sweep in range(2):  # the likeliest first, which leaves few others
            for part in range(len(maxima)):
                if maxima[part] < limit or (sweep == 0 and maxima[part] < most):
                    continue
                for i in range(starts[part], starts[part + 1]):
                    if found[i] < limit or (found[i] == most) != (sweep == 0):
                        continue
                    cluster = members[i]
                    if cluster == clusters[row]:
                        continue
                    similarity = halving_sum(vectors[row], centroids[cluster], terms)
                    if similarity > similarities[row] or (similarity == similarities[row] and cluster < clusters[row]):
                        clusters[row], similarities[row] = cluster, similarity
                        limit = _reached(similarity, error, step)
        if bounds.shape[1] == 0:
            continue
        if before >= 0 and before != clusters[row]:
            left = group_of[before]
            bounds[row, left] = max(bounds[row, left], _in_units(before_similarity + 1e-6 - moved[left]))
        mine = group_of[clusters[row]]
        for part in range(len(maxima)):
            group, highest = group_of[members[starts[part]]], maxima[part]
            if group == mine:
                highest = np.int32(-(2**31) + 1)
                for i in range(starts[part], starts[part + 1]):
                    if members[i] != clusters[row]:
                        highest = max(highest, found[i])
            bound = _in_units(highest * step + error - moved[group])
            bounds[row, group] = bound if is_whole else max(bounds[row, group], bound)


@compiled
def _reached(similarity: float, error: float, step: float) -> np.int32:
    """What the product with any centroid that is as similar reaches at least."""
    return np.int32(max(np.floor((similarity - error) / step), -(2.0**31) + 1))


@compiled
def _in_units(value: float) -> np.int16:
    return np.int16(min(max(np.ceil(value * 4096.0), -32768.0), 32767.0))
