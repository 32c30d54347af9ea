"""Damaged pictures through the screening that the stage runs: one row each, whatever the bytes are."""

import resource
import warnings

import pyarrow as pa
import pytest

from curation import schema
from curation.images.pca_hash import cosine_basis
from curation.images.quality import QualityRules
from curation.images.screening import screened_rows
from curation.schema import Reason
from tests.curation.images.mutants import encoded, mutants, photo, seeds

RULES = QualityRules(min_side=32, max_pixels=4_000_000)
REASONS = {
    None, Reason.NOT_AN_IMAGE, Reason.UNSUPPORTED_FORMAT, Reason.TRUNCATED, Reason.TOO_MANY_PIXELS, Reason.ANIMATED,
    Reason.TOO_SMALL, Reason.BAD_ASPECT, Reason.BLANK,
}  # fmt: skip
PEAK_BYTES = 500_000_000  # a float picture of RULES.max_pixels takes 16 MB


def _peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _rows(files, count, seed, capfd):
    damaged = list(enumerate(mutants(files, count, seed)))
    before = _peak_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = screened_rows(((str(k), data) for k, data in damaged), RULES, cosine_basis())
    assert _peak_bytes() - before < PEAK_BYTES
    assert [row["image_id"] for row in rows] == [str(k) for k in range(count)]
    assert {row.get("reason") for row in rows} <= REASONS
    pa.RecordBatch.from_pylist(rows, schema=schema.SCREENED.schema)
    assert capfd.readouterr() == ("", ""), "a decoder wrote to the terminal"
    for row in rows:
        if row.get("reason") is None:
            assert min(row["width"], row["height"]) >= RULES.min_side
            assert row["width"] * row["height"] <= RULES.max_pixels
    return rows


def test_two_thousand_damaged_pictures(capfd):
    rows = _rows(list(seeds().values()), 2000, 0, capfd)
    found = {row.get("reason") for row in rows}
    assert found > {None, Reason.TRUNCATED, Reason.NOT_AN_IMAGE, Reason.TOO_MANY_PIXELS}, "the damage is too uniform"
    some = rows[::40]
    again = screened_rows(
        ((str(k), data) for k, data in enumerate(mutants(list(seeds().values()), 2000, 0)) if k % 40 == 0),
        RULES,
        cosine_basis(),
    )
    assert again == some


def test_a_gif_of_a_huge_frame_is_refused_before_it_is_filled(capfd):
    """A first frame that is disposed of to the background, far larger than the declared screen."""
    picture = encoded(photo(), "GIF", disposal=2)
    frame = picture.index(b"\x2c" + bytes(4) + (96).to_bytes(2, "little"))
    for comment in (b"", b"!\xfe" + 200 * (b"\xff" + bytes(255)) + b"\0"):
        bomb = picture[:frame] + comment + b"\x2c" + bytes(4) + b"\xff" * 4 + picture[frame + 9 :]
        before = _peak_bytes()
        row = screened_rows([("bomb", bomb)], RULES, cosine_basis())[0]
        assert _peak_bytes() - before < PEAK_BYTES
        assert (row["reason"], row["width"], row["height"]) == (Reason.TOO_MANY_PIXELS, 65535, 65535)


def test_damaged_tiffs(capfd):
    """Of all formats the one with the most to say about its own damage."""
    _rows([data for name, data in seeds().items() if name.startswith("tiff")], 1000, 300, capfd)


@pytest.mark.realdata
def test_damaged_real_pictures(shared_data, capfd):
    folders = ("dedup_cases", "web_animals", "faces", "depth")
    files = [file for folder in folders for file in sorted((shared_data / folder).rglob("*.*")) if file.suffix != ".md"]
    small = [data for file in files[::9] if len(data := file.read_bytes()) < 60_000]
    _rows(small, 500, 1, capfd)
