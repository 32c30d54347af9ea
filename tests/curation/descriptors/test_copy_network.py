import csv
import hashlib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from curation.descriptors.copy_network import SHA256, WEIGHTS, load_copy_network
from tests.training.copies.small import config, write_pictures
from training.copies.train import train


@pytest.fixture(scope="module")
def shipped():
    return load_copy_network()


def _picture(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((240, 180), Image.Resampling.BICUBIC)


def _embed(embedder, pictures):
    return embedder.embed(np.stack([embedder.preprocess(picture) for picture in pictures]))


def test_the_shipped_file_is_the_known_one_and_small():
    data = WEIGHTS.read_bytes()
    assert hashlib.sha256(data).hexdigest() == SHA256
    assert len(data) <= 10_000_000


def test_vectors_have_unit_length_and_do_not_depend_on_the_batch(shipped):
    pictures = [_picture(i) for i in range(5)]
    together = _embed(shipped, pictures)
    assert together.shape == (5, shipped.dim)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for picture, vector in zip(pictures, together, strict=True):
        assert np.allclose(_embed(shipped, [picture])[0], vector, atol=1e-4)


@pytest.mark.realdata
def test_a_mirror_image_has_nearly_the_same_vector(shipped, shared_data):
    pictures = [Image.open(path).convert("RGB") for path in sorted((shared_data / "landmarks/images").iterdir())[:8]]
    mirrored = [picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for picture in pictures]
    similarity = (_embed(shipped, pictures) * _embed(shipped, mirrored)).sum(axis=1)
    assert similarity.min() > 0.8


def test_a_smaller_copy_is_nearer_than_any_other_picture(shipped):
    originals = [_picture(i) for i in range(8)]
    copies = [picture.resize((120, 90), Image.Resampling.BOX) for picture in originals]
    similarity = _embed(shipped, copies) @ _embed(shipped, originals).T
    assert similarity.argmax(axis=1).tolist() == list(range(8))


def test_what_training_writes_is_read_here_at_its_size_or_another(tmp_path):
    write_pictures(tmp_path, 6)
    path = train(config(tmp_path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pictures = [Image.open(picture).convert("RGB") for picture in sorted((tmp_path / "photos").iterdir())]
    own, larger = load_copy_network(path, digest), load_copy_network(path, digest, size=64)
    assert own.preprocess(pictures[0]).shape == (40, 40, 3)
    assert larger.preprocess(pictures[0]).shape == (64, 64, 3)
    assert own.digest != larger.digest
    assert np.linalg.norm(_embed(own, pictures), axis=1) == pytest.approx(np.ones(6), abs=1e-5)


def test_another_hash_is_refused():
    with pytest.raises(ValueError, match="SHA-256"):
        load_copy_network(WEIGHTS, "0" * 64)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all", b"\xff" * 64])
def test_bytes_that_are_no_descriptor_are_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="no copy descriptor"):
        load_copy_network(path, hashlib.sha256(content).hexdigest())


def test_safetensors_of_something_else_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(ValueError, match="no copy descriptor"):
        load_copy_network(path, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.realdata
def test_light_edits_of_real_photographs_are_found_among_hundreds(shipped, shared_data):
    with (shared_data / "copy_detection/ground_truth.tsv").open(newline="") as file:
        truth = [row for row in csv.DictReader(file, delimiter="\t") if row["reference"] != "none"]
    truth = [row for row in truth if row["transform"] in ("jpeg_q10", "scale40")]
    names = sorted(path.name for path in (shared_data / "imagenet_samples/resized").iterdir())[::4]
    names = sorted({*names, *(row["reference"].split("/")[-1] for row in truth)})

    def vectors(paths):
        return _embed(shipped, [Image.open(path).convert("RGB") for path in paths])

    references = vectors([shared_data / "imagenet_samples/resized" / name for name in names])
    queries = vectors([shared_data / "copy_detection/queries" / row["query"] for row in truth])
    found = [names[i] for i in (queries @ references.T).argmax(axis=1)]
    right = [name == row["reference"].split("/")[-1] for name, row in zip(found, truth, strict=True)]
    assert np.mean(right) >= 0.95
