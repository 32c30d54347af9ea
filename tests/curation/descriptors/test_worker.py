"""The worker's rows do not depend on how the work is cut, and a picture that fails is a row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.descriptors.worker import Effort, Place, embed_batch, embedded
from tests.curation.descriptors.working import LIMIT, encoded, picture

SPECS = {
    precision: EmbedderSpec(adapter="copy_network", precision=precision, batch_size=4) for precision in ("fp32", "bf16")
}


@pytest.fixture(scope="module", params=SPECS)
def embedder(request):
    return load_embedder(SPECS[request.param])


def rows_of(embedder, pictures, threads, effort=None):
    def read(shard, offset_bytes, size_bytes):
        return pictures[offset_bytes]

    places = [Place(f"{number:032x}", "a.tar", number, -1) for number in range(len(pictures))]
    batches = embedded(places, read, embedder, LIMIT, threads, effort or Effort())
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_one_row_an_image_in_order_whatever_the_threads(embedder, threads):
    pictures, effort = encoded(11), Effort()
    rows = rows_of(embedder, pictures, threads, effort)
    assert rows == rows_of(embedder, pictures, 1)
    assert [row["image_id"] for row in rows] == [f"{number:032x}" for number in range(11)]
    assert [number for number, row in enumerate(rows) if row["vector"] is None] == [2, 4]
    assert all(row["error"] for row in (rows[2], rows[4]))
    assert (effort.images, effort.failed) == (11, 2)
    assert sum(effort.shares().values()) == pytest.approx(1, abs=0.01)
    lengths = [np.linalg.norm(np.frombuffer(row["vector"], "<f2").astype(float)) for row in rows if row["vector"]]
    assert lengths == pytest.approx([1.0] * 9, abs=1e-3)


@pytest.fixture(scope="module")
def alone(embedder):
    """The vector of each picture by itself, on one thread as the worker's are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    pictures = [picture(seed) for seed in range(10)]
    yield pictures, [embed_batch([("", p)], embedder, LIMIT, Effort())[0]["vector"] for p in pictures]
    torch.set_num_threads(before)


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(10)), size=st.integers(1, 10))
def test_a_vector_depends_on_its_picture_alone(embedder, alone, order, size):
    """To the last bit: whatever other pictures come with it, how many, and in which order."""
    pictures, expected = alone
    for start in range(0, 10, size):
        some = order[start : start + size]
        rows = embed_batch([("", pictures[i]) for i in some], embedder, LIMIT, Effort())
        assert [row["vector"] for row in rows] == [expected[i] for i in some]


def test_a_shard_that_cannot_be_read_says_nothing_of_its_images():
    def read(shard, offset_bytes, size_bytes):
        raise OSError("the disk is gone")

    embedder = load_embedder(SPECS["fp32"])
    with pytest.raises(OSError, match="the disk is gone"):
        list(embedded([Place("0", "a", 0, 1)], read, embedder, LIMIT, 2, Effort()))


def test_a_vector_that_is_not_finite_is_an_error():
    class Broken:
        name, dim, digest, kind, batch_size, min_side = "broken", 2, "d", "trained", 8, None

        def preprocess(self, _):
            return np.zeros(1)

        def embed(self, batch):
            return np.full((len(batch), 2), np.nan, np.float32)

    (row,) = embed_batch([("0", picture(0))], Broken(), LIMIT, Effort())
    assert (row["vector"], row["error"]) == (None, "the model gives a vector that is not finite")


def test_a_picture_too_large_for_the_memory_is_its_own_row():
    class Short:
        name, dim, digest, kind, batch_size, min_side = "short", 2, "d", "trained", 8, None

        def preprocess(self, image):
            return np.zeros(1) if image.width < 200 else np.zeros(1 << 50)

        def embed(self, batch):
            return np.ones((len(batch), 2), np.float32)

    rows = embed_batch([(str(side), picture(0, side)) for side in (90, 400, 120)], Short(), LIMIT, Effort())
    assert [row["error"] for row in rows] == [None, "there is not enough memory to decode the picture", None]
    assert [row["vector"] is None for row in rows] == [False, True, False]


def test_large_jpegs_are_decoded_at_a_reduced_scale_and_look_the_same():
    embedder = load_embedder(SPECS["fp32"])
    large = picture(3, side=6 * embedder.min_side)
    whole = load_embedder(SPECS["fp32"])
    whole.min_side = None
    reduced, full = (
        np.frombuffer(embed_batch([("", large)], each, LIMIT * 10, Effort())[0]["vector"], "<f2").astype(np.float32)
        for each in (embedder, whole)
    )
    assert reduced @ full > 0.995
