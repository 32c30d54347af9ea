import io
import json
import tarfile

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from curation.release.shards import DamagedShardError, read_entries, write_shard
from tests.curation.release.build import PICTURES

SAMPLES = [
    (i, "png", data, {"url": "http://ünicode.test/\x1b", "n": n}) for n, (i, data) in enumerate(PICTURES.items())
]


def written(samples):
    file = io.BytesIO()
    return file, write_shard(file, samples)


def test_tarfile_reads_the_members_and_their_constant_attributes():
    file, members = written(SAMPLES)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        infos = tar.getmembers()
        assert [i.name for i in infos] == [f"{s[0]}.{e}" for s in SAMPLES for e in ("png", "json")]
        assert {(i.mode, i.uid, i.gid, i.mtime, i.uname, i.type) for i in infos} == {
            (0o644, 0, 0, 0, "", tarfile.REGTYPE)
        }
        for sample, member in zip(SAMPLES, members, strict=True):
            info = tar.getmember(member.member)
            assert (info.offset_data, info.size) == (member.offset_bytes, member.size_bytes)
            assert tar.extractfile(info).read() == sample[2]
            assert json.load(tar.extractfile(f"{sample[0]}.json")) == sample[3]


def test_headers_are_those_that_tarfile_writes():
    ours, _ = written(SAMPLES)
    theirs = io.BytesIO()
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        ours.seek(0)
        for name, _, data in read_entries(ours, len(ours.getvalue())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert theirs.getvalue().rstrip(b"\0") == ours.getvalue().rstrip(b"\0")


@pytest.mark.filterwarnings("ignore")
def test_the_webdataset_package_reads_it(tmp_path):
    path = tmp_path / "00000.tar"
    with path.open("wb") as file:
        write_shard(file, SAMPLES)
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [(s["__key__"], s["png"], json.loads(s["json"])) for s in samples] == [(i, d, m) for i, _, d, m in SAMPLES]


@given(st.lists(st.tuples(st.binary(max_size=1600), st.dictionaries(st.text(), st.text(), max_size=3)), max_size=4))
def test_what_is_written_is_read_back(contents):
    samples = [(f"{n:032x}", "jpg", data, metadata) for n, (data, metadata) in enumerate(contents)]
    file, _ = written(samples)
    file.seek(0)
    entries = list(read_entries(file, len(file.getvalue())))
    read = [(a.data, json.loads(b.data)) for a, b in zip(entries[::2], entries[1::2], strict=True)]
    assert read == contents


@pytest.mark.parametrize(
    ("image_id", "extension"), [("../x", "jpg"), ("a" * 32, "json"), ("a" * 32, "j/g"), ("a" * 32, "")]
)
def test_names_that_are_no_names_are_refused(image_id, extension):
    with pytest.raises(ValueError, match=r"extension|image id"):
        written([(image_id, extension, b"", {})])


def test_a_size_field_that_lies_asks_for_no_memory():
    file, _ = written(SAMPLES[:1])
    header = bytearray(file.getvalue()[:512])
    for field in (b"77777777777\0", b"-0000000001\0"):
        header[124:136] = field
        checksum = sum(header[:148]) + sum(header[156:]) + 8 * 32
        header[148:156] = b"%06o\0 " % checksum
        with pytest.raises(DamagedShardError):
            list(read_entries(io.BytesIO(bytes(header) + bytes(2048)), 2560))
