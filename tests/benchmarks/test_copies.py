import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.benchmarks import harness
from tests.benchmarks._copy_edits import EDITS, edited, generator
from tests.benchmarks._copy_sets import CopySet, PairSet
from tests.benchmarks.copies import Sets, by_peer, described, scored, table


def _picture(seed, size=(160, 120)):
    blocks = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_the_picture_by_name_and_seed_alone(name):
    picture, others = _picture(0), [_picture(1), _picture(2, (90, 130))]
    once = edited(name, picture, others, generator(0, name, "a"))
    assert once == edited(name, picture, others, generator(0, name, "a"))
    with Image.open(io.BytesIO(once)) as image:
        assert min(image.size) >= 8
        same = image.size == picture.size
        assert not same or np.abs(np.asarray(image, int) - np.asarray(picture, int)).mean() > 3


class _Colours:
    """Mean colours of a 4 x 4 grid, the overall mean taken off: an embedder that finds plain copies."""

    name, dim, digest, kind, min_side = "colours", 48, "0" * 64, "classical", None

    def preprocess(self, image):
        small = np.asarray(image.resize((4, 4), Image.Resampling.BOX), np.float32).ravel()
        return small - small.mean()

    def embed(self, batch):
        return batch / np.linalg.norm(batch, axis=1, keepdims=True)


def test_a_descriptor_is_scored_on_what_it_finds(tmp_path):
    pictures = [_picture(i) for i in range(12)]
    references = [tmp_path / f"r{i}.png" for i in range(10)]
    for path, picture in zip(references, pictures, strict=False):
        picture.save(path)
    queries = []
    for i in range(12):  # ten have a reference, two have none
        queries += [tmp_path / f"q{i}.jpg", tmp_path / f"n{i}.png"]
        pictures[i].resize((80, 60)).save(queries[-2])
        ImageOps.invert(pictures[i]).save(queries[-1])
    truth = np.array([i if i < 10 else -1 for i in range(12) for _ in range(2)])
    kinds = np.array(["small", "negative"] * 12)
    copies = CopySet(queries, references, truth, kinds, np.repeat(np.arange(12), 2))
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    pairs = np.array([[0, 10], [1, 12], [2, 3]])
    natural = PairSet([*references, *queries[:4]], pairs, np.array(["exact", "edited", "not_duplicate"]))
    cases = PairSet([*references, damaged, queries[0]], np.array([[0, 11], [1, 2]]), np.array(["copy", "different"]))
    sets = Sets(copies, copies, copies, natural, natural, cases, references[:5])
    files = sets.files()
    assert len(files) == len(set(files)) == 10 + 24 + 1

    told = scored(lambda paths: described(_Colours(), paths), sets)
    assert told["unreadable"] == 1
    assert told["copy_detection"]["edits"]["small"]["micro_ap"] == 1
    assert told["copy_detection"]["edits"]["negative"]["first"] == 0  # the opposite of its reference
    assert told["copy_detection"]["recall_at_p90"] == pytest.approx(0.5, abs=0.1)
    assert told["natural"]["recall"] == told["dedup_cases"]["recall"] == 1
    assert told["dedup_cases"]["false_pairs"] == 0
    row = {"images_per_s": 1.0, **told}
    assert "negative" in table({harness.OURS: row})
    assert harness.rounded(row)["copy_detection"]["micro_ap"] < 1


def test_a_peer_that_fails_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"No module named 'imagededup'; leave that --peers-python out"):
        by_peer("phash", sys.executable, [tmp_path / "absent.jpg"])
