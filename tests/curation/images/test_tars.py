import io
import tarfile

import pytest

from curation.images.tars import members

CONTENTS = {
    "000.jpg": b"a" * 700,
    "../../etc/passwd": b"evil",
    "x" * 300 + ".json": b"{}",
    "empty.txt": b"",
    "ünï.png": b"p" * 512,
}


def _tar(contents=CONTENTS, format=tarfile.PAX_FORMAT):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_offsets_point_at_the_payload(format):
    contents = {k: v for k, v in CONTENTS.items() if len(k) < 90 or format != tarfile.USTAR_FORMAT}
    data = _tar(contents, format)
    found = list(members(io.BytesIO(data)))
    files = {m.name: data[m.offset_bytes : m.offset_bytes + m.size_bytes] for m in found if m.what == "file"}
    assert files == contents
    assert [(m.name, m.what) for m in found if m.what != "file"] == [("link", "link")]


def test_every_cut_gives_the_whole_members_then_an_error():
    data = _tar()
    ends = [m.offset_bytes + m.size_bytes for m in members(io.BytesIO(data))]
    end_marker = -(-ends[-1] // 512) * 512
    for cut in range(0, end_marker + 512, 97):
        given = []
        with pytest.raises(ValueError, match="tar"):
            given.extend(members(io.BytesIO(data[:cut])))
        assert len(given) >= sum(end <= cut - 512 for end in ends)
        assert all(m.offset_bytes + m.size_bytes <= cut for m in given)


def test_a_damaged_header_is_an_error_not_an_end():
    data = bytearray(_tar())
    third = list(members(io.BytesIO(data)))[2]
    data[third.offset_bytes - 512] ^= 0xFF
    with pytest.raises(ValueError, match="damaged"):
        list(members(io.BytesIO(data)))


@pytest.mark.parametrize("data", [b"", b"no tar at all" * 100, b"\x1f\x8b" + bytes(600)])
def test_no_tar(data):
    with pytest.raises(ValueError, match="tar"):
        list(members(io.BytesIO(data)))
