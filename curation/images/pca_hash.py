"""A near-exact hash of what a picture shows (the paper's "PCA hash", appendix A).

The paper names the hash and gives neither its length nor its construction; this one is ours. A picture is shrunk to
32 x 32, its luma is projected on the 40 leading principal components of a sample of thumbnails, and each sign
gives a bit. The components are the coarse shapes in which pictures differ most, so re-encoding and moderate resizing
seldom turn a sign, while two pictures seldom agree in all. Measured by ``python -m tests.benchmarks.pca_hash`` on 400
ImageNet pictures, 40 bits find 95 % of re-encodings at JPEG quality 75, 88 % at 40, and 94 % of those at half size;
what is missed here is left to the copy descriptor. 7,200 pictures of Tiny ImageNet share no hash and 12,000 of CIFAR
four, all told apart by the second look. A projection fitted elsewhere, or the cosine basis, does about as well as one's
own.

Three things keep equal bits honest:

- the bits ignore brightness, contrast and colour, so equal hashes are candidates; ``copies`` takes a second look;
- a flat picture has no shapes and its signs would be noise: it gets no hash and is never a duplicate here;
- all arithmetic after the fit is on integers, so the bits are the same on any machine.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from curation.images.decode import squared

SIDE = 32  # pixels of a thumbnail's edge
NUM_BITS = 40  # a multiple of 8
MIN_SAMPLE = 1000  # thumbnails below which the components would describe the sample and not pictures
MAX_SAMPLE = 100_000  # thumbnails whose sums are exact: 100,000 times 255,000 squared is under 2**53
MAX_DISTANCE = 0.2  # between thumbnails of one picture, as a share of its contrast
FLAT_CONTRAST = 4.0  # standard deviation of luma, in grey levels, below which a thumbnail is flat

_MAGIC = b"openlvd PCA hash 2\n"
_SCALE = 2**14  # one unit of a component, in int16
_LUMA = np.array([299, 587, 114], np.float64)  # thousandths, ITU-R BT.601


@dataclass(frozen=True)
class PcaHash:
    """A fitted hash.

    Attributes:
        components: [NUM_BITS, SIDE * SIDE] int16.
        thresholds: [NUM_BITS] int64, the projection of the mean thumbnail.
    """

    components: np.ndarray
    thresholds: np.ndarray

    @property
    def digest(self) -> str:
        """Hex digest that names this projection in the ledger."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The projection as bytes; no pickle."""
        return _MAGIC + self.components.astype("<i2").tobytes() + self.thresholds.astype("<i8").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PcaHash":
        """Read what ``to_bytes`` wrote.

        Raises:
            ValueError: the bytes are something else, or of another version.
        """
        split = len(_MAGIC) + NUM_BITS * SIDE * SIDE * 2
        if not data.startswith(_MAGIC) or len(data) != split + NUM_BITS * 8:
            raise ValueError("not a PCA hash of this version; run the screen stage again to fit one")
        components = np.frombuffer(data[len(_MAGIC) : split], "<i2").reshape(NUM_BITS, SIDE * SIDE)
        return cls(components, np.frombuffer(data[split:], "<i8"))

    def hashes(self, thumbnails: np.ndarray) -> list[str | None]:
        """Hash thumbnails.

        Args:
            thumbnails: [n, SIDE, SIDE, 3] uint8, as ``thumbnail`` makes them.

        Returns:
            n strings of ``NUM_BITS / 4`` hex digits; None for a flat picture.
        """
        luma = _luma(thumbnails)
        shapes = luma * (SIDE * SIDE) - luma.sum(axis=1, keepdims=True)  # times their number, so that they stay whole
        bits = shapes @ self.components.astype(np.float64).T > self.thresholds
        return [
            None if flat else packed.tobytes().hex()
            for packed, flat in zip(np.packbits(bits, axis=1), _contrast(luma) < FLAT_CONTRAST, strict=True)
        ]


def thumbnail(image: Image.Image) -> np.ndarray:
    """Shrink an RGB picture to [SIDE, SIDE, 3] uint8; the aspect ratio is given up."""
    return np.asarray(squared(image.convert("RGB"), SIDE))


def distances(thumbnails: np.ndarray) -> np.ndarray:
    """How far thumbnails are from each other: root mean square difference as a share of the second one's contrast.

    Args:
        thumbnails: [n, SIDE, SIDE, 3] uint8, none of them flat.

    Returns:
        [n, n] float64; in row i and column j the distance of i to j, by the contrast (standard deviation of luma) of j.
    """
    values = thumbnails.reshape(len(thumbnails), 3 * SIDE * SIDE).astype(np.float64)
    squares = (values**2).sum(axis=1)
    differences = squares[:, None] + squares - 2 * values @ values.T
    return np.sqrt(differences / (3 * SIDE * SIDE)) / _contrast(_luma(thumbnails))


def copies(thumbnails: np.ndarray) -> list[tuple[int, int, float]]:
    """Look again at pictures of one hash: which of them are copies, and of which.

    Args:
        thumbnails: [n, SIDE, SIDE, 3] uint8, the one to be kept rather first.

    Returns:
        (copy, kept, distance) for every picture within ``MAX_DISTANCE`` of one that is kept, the nearest such.
    """
    apart = distances(thumbnails)
    found: list[tuple[int, int, float]] = []
    kept: list[int] = []
    for row in range(len(thumbnails)):
        nearest = min(kept, key=lambda other: (apart[row, other], other), default=row)
        if nearest != row and apart[row, nearest] <= MAX_DISTANCE:
            found.append((row, nearest, float(apart[row, nearest])))
        else:
            kept.append(row)
    return found


def fit(thumbnails: np.ndarray) -> PcaHash:
    """Fit the projection on a sample, whose order does not matter; a cosine basis below ``MIN_SAMPLE`` thumbnails.

    The second moments are sums of integers, below 2**53 up to ``MAX_SAMPLE`` thumbnails, hence exact in any order. The
    sign of a component is such that its largest entry (the first of equals) is positive.

    Args:
        thumbnails: [n, SIDE, SIDE, 3] uint8.
    """
    assert len(thumbnails) <= MAX_SAMPLE
    if len(thumbnails) < MIN_SAMPLE:
        return cosine_basis()
    luma = _luma(thumbnails)
    mean, moments = luma.sum(axis=0) / len(luma), (luma.T @ luma) / len(luma)
    mean, moments = mean - mean.mean(), moments - moments.mean(axis=0) - moments.mean(axis=1)[:, None] + moments.mean()
    components = np.linalg.eigh(moments - np.outer(mean, mean))[1][:, ::-1][:, :NUM_BITS].T
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], 1)
    fixed = np.rint(components * np.sign(largest) * _SCALE).astype(np.int16)
    thresholds = fixed.astype(np.int64) @ np.rint(mean * (SIDE * SIDE)).astype(np.int64)
    return PcaHash(fixed, thresholds)


def cosine_basis() -> PcaHash:
    """The projection that needs no sample: the cosines of lowest frequency, close to the components of photographs."""
    frequencies = sorted((u + v, u, v) for u in range(SIDE) for v in range(SIDE) if u + v > 0)[:NUM_BITS]
    place = (np.arange(SIDE) + 0.5) * np.pi / SIDE
    waves = np.stack([np.outer(np.cos(u * place), np.cos(v * place)).ravel() for _, u, v in frequencies])
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    return PcaHash(np.rint(waves * _SCALE).astype(np.int16), np.zeros(NUM_BITS, np.int64))


# The arithmetic below is on whole numbers under 2**53 held in float64: exact in any order of summation, and many times
# as fast as int64. A projection stays under 2**47: a component has norm 2**14, luma less its mean, times 1024, 2**33.


def _luma(thumbnails: np.ndarray) -> np.ndarray:
    """[n, SIDE, SIDE, 3] uint8 -> [n, SIDE * SIDE] float64, whole thousandths of a grey level."""
    return (thumbnails.astype(np.float64) @ _LUMA).reshape(len(thumbnails), SIDE * SIDE)


def _contrast(luma: np.ndarray) -> np.ndarray:
    """Standard deviation of luma in grey levels, [n] float64."""
    sums, squares = luma.sum(axis=1).astype(np.int64), (luma**2).sum(axis=1).astype(np.int64)
    return np.sqrt(SIDE * SIDE * squares - sums**2) / (1000 * SIDE * SIDE)
