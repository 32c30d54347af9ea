import io

import numpy as np
import pytest
from PIL import Image

from curation.images import pca_hash
from curation.images.pca_hash import MAX_DISTANCE, MAX_SAMPLE, PcaHash, copies, cosine_basis, distances, fit, thumbnail
from spark_jobs.config import Screen


def _pictures(n, seed=0, side=96):
    """Smooth random colour pictures: a few random waves each."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(0, 255, (n, 6, 6, 3)).astype(np.uint8)
    return [Image.fromarray(s).resize((side, side), Image.Resampling.BICUBIC) for s in small]


def _thumbnails(pictures):
    return np.stack([thumbnail(p) for p in pictures])


def _jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


@pytest.fixture(scope="module")
def fitted():
    return fit(_thumbnails(_pictures(1200, seed=1)))


@pytest.mark.parametrize("kind", ["fitted", "cosine"])
def test_encodings_of_one_picture_agree_and_pictures_do_not(fitted, kind):
    hasher = fitted if kind == "fitted" else cosine_basis()
    pictures = _pictures(300)
    hashes = hasher.hashes(_thumbnails(pictures))
    assert len(set(hashes)) == 300
    for copy in (lambda p: _jpeg(p, 85), lambda p: p.resize((72, 72), Image.Resampling.LANCZOS)):
        again = hasher.hashes(_thumbnails([copy(p) for p in pictures]))
        assert np.mean([a == b for a, b in zip(hashes, again, strict=True)]) > 0.75


def test_components_are_the_directions_of_most_variance(fitted):
    luma = _thumbnails(_pictures(1200, seed=1)).astype(float) @ [0.299, 0.587, 0.114]
    shapes = luma.reshape(1200, -1) - luma.reshape(1200, -1).mean(1, keepdims=True)
    variances = np.sort(np.linalg.eigvalsh(np.cov(shapes.T, bias=True)))[::-1]
    projected = (shapes @ (fitted.components.astype(float).T / 2**14)).var(0)
    np.testing.assert_allclose(projected, variances[: len(projected)], rtol=0.01)


def test_fit_does_not_depend_on_the_order_of_the_sample(fitted):
    thumbnails = _thumbnails(_pictures(1200, seed=1))
    order = np.random.default_rng(0).permutation(1200)
    assert fit(thumbnails[order]).to_bytes() == fitted.to_bytes()
    assert fit(thumbnails[:1199]).digest != fitted.digest


def test_a_small_sample_gives_the_cosine_basis():
    assert fit(_thumbnails(_pictures(10))).digest == fit(np.zeros((0, 32, 32, 3), np.uint8)).digest
    basis = cosine_basis().components / 2**14
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-3)
    np.testing.assert_allclose(basis.sum(1), 0, atol=1e-2)


def test_flat_pictures_have_no_hash(fitted):
    rng = np.random.default_rng(0)
    flat = [np.full((40, 40, 3), v, np.uint8) for v in (0, 128, 255)]
    flat += [rng.integers(100, 103, (40, 40, 3)).astype(np.uint8)]
    assert fitted.hashes(_thumbnails([Image.fromarray(f) for f in flat])) == [None] * 4


def test_one_hash_whatever_the_batch(fitted):
    thumbnails = _thumbnails(_pictures(50))
    assert [fitted.hashes(t[None])[0] for t in thumbnails] == fitted.hashes(thumbnails)
    assert all(len(h) == pca_hash.NUM_BITS // 4 for h in fitted.hashes(thumbnails))


def test_bits_are_those_of_whole_numbers_without_end(fitted):
    """The projections are computed in float64; here in Python's integers, on pictures that make them largest."""
    rng = np.random.default_rng(3)
    signs = (fitted.components[:20] > 0).reshape(20, 32, 32, 1)
    extreme = [np.where(signs, 255, 0).repeat(3, 3), np.where(signs, 0, 255).repeat(3, 3)]
    noise = rng.integers(0, 256, (20, 32, 32, 3))
    thumbnails = np.concatenate([*extreme, noise]).astype(np.uint8)
    for picture, found in zip(thumbnails, fitted.hashes(thumbnails), strict=True):
        luma = [299 * int(r) + 587 * int(g) + 114 * int(b) for r, g, b in picture.reshape(-1, 3)]
        shape = [1024 * value - sum(luma) for value in luma]
        bits = [
            sum(int(c) * s for c, s in zip(component, shape, strict=True)) > int(threshold)
            for component, threshold in zip(fitted.components, fitted.thresholds, strict=True)
        ]
        assert found == f"{int(''.join('01'[bit] for bit in bits), 2):0{pca_hash.NUM_BITS // 4}x}"


def test_distances_are_those_of_whole_numbers():
    thumbnails = np.random.default_rng(4).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    apart = distances(thumbnails)
    for i, j in ((0, 1), (3, 2), (5, 5)):
        squares = sum((int(a) - int(b)) ** 2 for a, b in zip(thumbnails[i].ravel(), thumbnails[j].ravel(), strict=True))
        luma = thumbnails[j].reshape(-1, 3).astype(float) @ [0.299, 0.587, 0.114]
        assert apart[i, j] == pytest.approx(np.sqrt(squares / 3072) / luma.std(), abs=1e-12)


def test_bytes_round_trip(fitted):
    again = PcaHash.from_bytes(fitted.to_bytes())
    thumbnails = _thumbnails(_pictures(50))
    assert again.digest == fitted.digest
    assert again.hashes(thumbnails) == fitted.hashes(thumbnails)
    for damaged in (b"", fitted.to_bytes()[:-1], b"x" + fitted.to_bytes()[1:]):
        with pytest.raises(ValueError, match="PCA hash"):
            PcaHash.from_bytes(damaged)


def test_equal_bits_are_looked_at_again(fitted):
    """A recoloured and a low-contrast picture keep the bits of the original and are no copies of it."""
    picture = _pictures(1, seed=7)[0]
    grey = picture.convert("L").convert("RGB")
    faint = grey.point(lambda v: 60 + v // 2)
    thumbnails = _thumbnails([picture, _jpeg(picture, 80), grey, faint, _jpeg(grey, 80)])
    assert len(set(fitted.hashes(thumbnails[[0, 1, 2, 4]]))) == 1
    assert [(row, kept) for row, kept, _ in copies(thumbnails)] == [(1, 0), (4, 2)]
    assert all(0 < distance <= MAX_DISTANCE for _, _, distance in copies(thumbnails))
    assert copies(thumbnails[:0]) == []


def test_distance_is_a_share_of_the_contrast():
    pattern = np.indices((32, 32)).sum(0)[..., None].repeat(3, 2) % 2
    plain = (100 + 40 * pattern).astype(np.uint8)  # contrast 20
    bold = (80 + 80 * pattern).astype(np.uint8)  # contrast 40
    apart = distances(np.stack([plain, plain + 5, bold]).astype(np.uint8))
    np.testing.assert_allclose(apart[:2, :2], [[0, 0.25], [0.25, 0]])
    np.testing.assert_allclose((apart[0, 2], apart[2, 0]), (0.5, 1.0))


@pytest.mark.realdata
def test_real_pictures(shared_data):
    files = sorted((shared_data / "imagenet_samples" / "resized").iterdir())[:150]
    pictures = [Image.open(f).convert("RGB") for f in files]
    hashes = cosine_basis().hashes(_thumbnails(pictures))
    assert len(set(hashes)) == len(hashes)
    again = cosine_basis().hashes(_thumbnails([_jpeg(p, 75) for p in pictures]))
    assert np.mean([a == b for a, b in zip(hashes, again, strict=True)]) > 0.9


def test_the_largest_sample_is_summed_exactly():
    assert MAX_SAMPLE * 255_000**2 < 2**53, "the whitest picture, in thousandths"
    assert Screen(min_side=1, pca_hash_sample=MAX_SAMPLE).pca_hash_sample == MAX_SAMPLE
    with pytest.raises(ValueError, match="pca_hash_sample"):
        Screen(min_side=1, pca_hash_sample=MAX_SAMPLE + 1)
