import hashlib
import json

import pytest

from curation.images.ids import image_id
from curation.release import blurring
from curation.release.blurring import Lookout
from curation.release.canonical import canonical_json
from curation.release.samples import sample
from curation.release.shards import write_shard
from tests.curation.release.test_blurring import SPEC, SQUARE, Chequers, Everywhere, encoded, pixels, scene

PHOTO = encoded(scene(), "JPEG")


def row(boxes=None, data=PHOTO):
    place = {"shard": "store:shards/0.tar", "offset_bytes": 0, "size_bytes": len(data)}
    facts = {"format": "JPEG", "width": 96, "height": 80, "boxes": boxes, "collection": "flowers", "source": "sample"}
    met = {"urls": ["http://garden.test/rose.jpg"], "pages": [], "paths": [], "rights": [], "cluster": 4}
    return {"image_id": image_id(data)} | place | facts | met


def released(monkeypatch, boxes, detector=Chequers, stored=PHOTO):
    monkeypatch.setattr(blurring, "load_detector", lambda _: detector())
    return sample(row(boxes), lambda *_: stored, Lookout(SPEC))


@pytest.mark.parametrize("boxes", [None, []])
def test_a_picture_in_which_nobody_was_found_keeps_its_bytes(monkeypatch, boxes):
    (name, extension, data, metadata, sha256), known = released(monkeypatch, boxes)
    assert (name, extension, data) == (image_id(PHOTO), "jpg", PHOTO)
    assert sha256 == hashlib.sha256(PHOTO).hexdigest()
    assert (metadata["blurred"], metadata["set"], metadata["method"]) == ([], "flowers", "sample")
    assert known == {"image_id": name, "source": "flowers", "cluster": 4, "blurred": 0}


def test_a_blurred_picture_keeps_its_id_and_says_where_it_is_blurred(monkeypatch, tmp_path):
    (name, extension, data, metadata, _), known = released(monkeypatch, [list(SQUARE)])
    assert (name, extension) == (image_id(PHOTO), "jpg")
    assert data != PHOTO
    assert Chequers().detect(pixels(data)) == []
    assert json.loads(canonical_json(metadata))["blurred"] == [list(SQUARE)]
    assert (known["blurred"], known["model"]) == (1, Chequers.digest)
    assert json.loads(known["evidence"]) == {"blurred": [list(SQUARE)]}
    with (tmp_path / "0.tar").open("wb") as file:
        (member,) = write_shard(file, [(name, extension, data, metadata)])
    assert not member.sha256.startswith(name)


def test_a_picture_in_which_somebody_remains_is_left_out_with_what_remains(monkeypatch):
    left_out, known = released(monkeypatch, [list(SQUARE)], Everywhere)
    assert left_out is None
    assert (known["reason"], known["score"], known["model"]) == ("face_remains", 0.5, Everywhere.digest)
    assert json.loads(known["evidence"])["face"][0] == [1, 2, 30, 30, 0.25]


@pytest.mark.parametrize("boxes", [None, [list(SQUARE)]])
def test_bytes_that_are_not_those_that_were_indexed_are_left_out(monkeypatch, boxes):
    left_out, known = released(monkeypatch, boxes, stored=PHOTO[:-1] + b"!")
    assert left_out is None
    assert (known["reason"], known["image_id"]) == ("unreadable", image_id(PHOTO))
    assert "no longer" in known["evidence"]


def test_a_shard_that_cannot_be_read_is_named(monkeypatch):
    def read(*_):
        raise FileNotFoundError(2, "is not there any more", "store:shards/0.tar")

    left_out, known = sample(row(), read, Lookout(SPEC.model_copy(update={"labels": []})))
    assert left_out is None
    assert known["evidence"] == "store:shards/0.tar: is not there any more"
