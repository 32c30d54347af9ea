"""The screen stage: what it writes, and near-exact copies in groups of any size."""

import hashlib
from collections import Counter

import fsspec
import numpy as np
import pytest
from PIL import Image

from conf import load
from curation import schema
from curation.images.decode import Header, decode
from curation.images.pca_hash import MAX_DISTANCE, SIDE, PcaHash, cosine_basis
from curation.images.quality import QualityRules, judge
from curation.schema import Reason
from spark_jobs import near_exact
from spark_jobs.config import CurationConfig
from spark_jobs.tables import Tables
from tests.curation.images.mutants import encoded, photo


def _config(folder, images, *overrides) -> CurationConfig:
    settings = [f"store={folder / 'store'}", f"release={folder / 'release'}", f"sources.images.own={images}"]
    return load(CurationConfig, "conf/curation/own.yaml", [*settings, "runtime.partitions=2", *overrides])


def _decisions(store):
    rows = store.decisions("screen").to_pylist()
    return {row["image_id"]: row for row in rows}


@pytest.fixture(scope="module")
def screened(finished):
    return finished.store.table("screened").to_pylist()


def test_every_image_has_its_row(finished, screened):
    images = finished.store.table("images")["image_id"].to_pylist()
    assert Counter(row["image_id"] for row in screened) == Counter(images)


def test_the_ledger_tells_what_was_measured_and_the_limit(finished, screened):
    decisions = _decisions(finished.store)
    rules = finished.config.recipe.screen
    limits = {"too_small": rules.min_side, "bad_aspect": rules.max_aspect, "blank": rules.min_entropy, "animated": 1}
    limits |= {"too_many_pixels": rules.max_pixels, "pca_hash_duplicate": MAX_DISTANCE}
    seen = Counter(row["reason"] for row in decisions.values())
    assert set(limits) < set(seen)
    for row in decisions.values():
        if row["reason"] in limits:
            assert row["threshold"] == limits[row["reason"]]
            over = row["reason"] in ("bad_aspect", "animated", "too_many_pixels")
            assert (row["score"] > row["threshold"]) if over else (row["score"] < row["threshold"])
            assert row["evidence"]
        else:
            assert row["score"] is None


def test_the_table_is_enough_to_judge_again(finished, screened):
    """Other limits need no decoding: what is on record gives the verdicts that were given."""
    rules = QualityRules.model_validate(
        {name: getattr(finished.config.recipe.screen, name) for name in QualityRules.model_fields}
    )
    for row in screened:
        if row["entropy"] is not None:
            header = Header(row["format"], row["width"], row["height"], row["num_frames"])
            refusal = judge(header, row["entropy"], rules)
            assert row["reason"] == (refusal and refusal.reason.value)


def test_the_projection_is_kept(finished):
    digest = finished.store.runs()["screen"].metrics["pca_hash"]
    with fsspec.open(finished.store.path("models", f"pca_hash-{digest}.bin")) as file:
        data = file.read()
    assert hashlib.sha256(data).hexdigest() == digest == PcaHash.from_bytes(data).digest


def test_another_crawls_projection_is_used_and_kept(run_stages, tmp_path):
    basis = cosine_basis()
    other = PcaHash(basis.components[::-1], basis.thresholds)
    (tmp_path / "other.bin").write_bytes(other.to_bytes())
    (tmp_path / "images").mkdir()
    data = encoded(photo(200, 150), "JPEG")
    (tmp_path / "images" / "a.jpg").write_bytes(data)
    given = f"recipe.screen.pca_hash={{path: {tmp_path / 'other.bin'}, sha256: "
    with pytest.raises(ValueError, match="its SHA-256 is"):
        run_stages(_config(tmp_path, tmp_path / "images", f"{given}{'f' * 64}}}"), "screen")
    run_stages(_config(tmp_path, tmp_path / "images", f"{given}{other.digest}}}"), "screen")
    store = Tables(str(tmp_path / "store"))
    assert store.runs()["screen"].metrics["pca_hash"] == other.digest
    assert (tmp_path / "store" / "models" / f"pca_hash-{other.digest}.bin").read_bytes() == other.to_bytes()
    (row,) = store.table("screened").to_pylist()
    thumbnail = np.asarray(decode(data, 10**6, SIDE).image)
    assert [row["pca_hash"]] == other.hashes(thumbnail[None]) != basis.hashes(thumbnail[None])


def test_a_group_of_very_many_is_looked_at_in_blocks(run_stages, tmp_path, monkeypatch):
    """Forty encodings of one picture and two others of the same hash, four to a block: each copy is found."""
    monkeypatch.setattr(near_exact, "BLOCK", 4)
    monkeypatch.setattr(near_exact, "LEADERS", 2)
    (tmp_path / "images").mkdir()
    picture = photo(200, 150)
    files = {f"copy-{k}.jpg": encoded(picture, "JPEG", quality=60 + k) for k in range(36)}
    pale = Image.fromarray((np.asarray(picture, np.int64) // 2 + 64).astype(np.uint8))  # the same signs, another look
    files |= {f"pale-{k}.jpg": encoded(pale, "JPEG", quality=80 + k) for k in range(2)}
    for name, data in files.items():
        (tmp_path / "images" / name).write_bytes(data)
    run_stages(_config(tmp_path, tmp_path / "images"), "screen")
    store = Tables(str(tmp_path / "store"))
    hashes = {row["image_id"]: row["pca_hash"] for row in store.table("screened").to_pylist()}
    groups = Counter(hashes.values())
    decisions = _decisions(store)
    assert max(groups.values()) > 20, "the case is not what it is meant to be"
    for row in decisions.values():
        if row["reason"] == Reason.PCA_HASH_DUPLICATE:
            assert hashes[row["image_id"]] == hashes[row["evidence"]]
            assert decisions[row["evidence"]]["decision"] == schema.KEEP
    kept = Counter(hashes[row["image_id"]] for row in decisions.values() if row["decision"] == schema.KEEP)
    common = groups.most_common(1)[0][0]
    assert kept[common] <= 2, "the picture and its pale version"
