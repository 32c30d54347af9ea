import hashlib

import pytest

from curation.release.making import make_shard
from curation.release.shards import read_entries
from curation.store import locate
from tests.curation.release.build import PICTURES, metadata

SAMPLES = [(name, "png", data, metadata(name)) for name, data in PICTURES.items()]
LARGE = ("0" * 32, "jpg", bytes(range(256)) * 10_000, {})  # more than is written at once


@pytest.fixture(params=["folder", "memory"])
def release(request, tmp_path):
    uri = str(tmp_path) if request.param == "folder" else f"memory://{tmp_path.name}"
    filesystem, folder = locate(uri)
    filesystem.makedirs(folder, exist_ok=True)
    yield uri
    filesystem.rm(folder, recursive=True)


@pytest.mark.parametrize("samples", [SAMPLES, [LARGE, *SAMPLES, LARGE]], ids=["small", "large"])
def test_a_shard_is_whole_and_known_wherever_it_lies(release, samples):
    made = make_shard(release, "00000.tar", iter(samples))
    filesystem, folder = locate(release)
    data = filesystem.cat_file(f"{folder}/00000.tar")
    assert (made.size_bytes, made.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    with filesystem.open(f"{folder}/00000.tar", "rb") as file:
        images = list(read_entries(file, len(data)))[::2]
    assert [image.data for image in images] == [sample[2] for sample in samples]
    assert [(i.name, i.offset_bytes) for i in images] == [(m.member, m.offset_bytes) for m in made.members]
    assert [hashlib.sha256(image.data).hexdigest() for image in images] == [m.sha256 for m in made.members]


def test_a_shard_whose_samples_end_in_an_error_is_not_there(release):
    def samples():
        yield from SAMPLES
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        make_shard(release, "00000.tar", samples())
    filesystem, folder = locate(release)
    assert filesystem.ls(folder) == []
