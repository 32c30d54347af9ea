import io
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.small import jpeg, make_release
from training.config import Data
from training.data import parquet, places
from training.data.release import Release
from training.data.sources import open_source


def opened(entry, field=None):
    return open_source(Data(release=str(entry) if isinstance(entry, Path) else entry, field=field))


def everything(source) -> list[bytes]:
    return [source.read(i) for i in range(len(source))]


def put(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_tar(path: Path, members: dict[str, bytes], **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def put_parquet(path: Path, columns: dict, group: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group)
    return path


def test_reads_a_release_by_offset(tmp_path):
    release = opened(make_release(tmp_path / "release"))
    assert isinstance(release, Release)
    assert set(everything(release)) == {jpeg(i) for i in range(24)}
    assert release.merkle_root() == "ab" * 32
    assert everything(pickle.loads(pickle.dumps(release))) == everything(release)


def test_reads_a_folder_in_the_order_of_its_paths(tmp_path):
    for name in ("b.jpg", "deep/a.JPEG", "c.txt", "a/z.png", ".hidden.jpg", ".git/d.jpg"):
        put(tmp_path / name, name.encode())
    folder = opened(tmp_path)
    assert everything(folder) == [b"a/z.png", b"b.jpg", b"deep/a.JPEG"]
    assert folder.merkle_root() is None
    assert folder.name(2) == str(tmp_path / "deep/a.JPEG")


def test_links_are_followed_and_circles_end(tmp_path):
    put(tmp_path / "else/where/x.jpg", b"linked")
    put(tmp_path / "root/a/y.jpg", b"own")
    (tmp_path / "root/b").symlink_to(tmp_path / "else/where", target_is_directory=True)
    (tmp_path / "root/c").symlink_to(tmp_path / "root", target_is_directory=True)
    (tmp_path / "root/d.jpg").symlink_to(tmp_path / "else/where/x.jpg")
    assert everything(opened(tmp_path / "root")) == [b"own", b"linked", b"linked"]
    (tmp_path / "root/e.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match=r"e\.jpg: cannot be read .* remove it, or the link"):
        opened(tmp_path / "root")


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_folder_of_many_files_holds_few_open(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "MAX_OPEN_FILES", 3)
    for i in range(9):
        put(tmp_path / "all" / f"{i}é.jpg", bytes([i]))
    folder, before = opened(tmp_path / "all"), num_open()
    assert everything(folder) + everything(folder) == 2 * [bytes([i]) for i in range(9)]
    assert num_open() - before <= 3


@pytest.mark.parametrize("make", ["release", "folder", "tars", "parquet"])
def test_a_fingerprint_follows_the_content_not_the_place(tmp_path, make):
    def made(name: str, num_images: int) -> Path:
        root, images = tmp_path / name, {f"{i}.jpg": jpeg(i) for i in range(num_images)}
        if make == "release":
            return make_release(root, num_images)
        if make == "tars":
            put_tar(root / "0.tar", images)
        elif make == "parquet":
            put_parquet(root / "0.parquet", {"jpg": list(images.values())})
        else:
            for name, data in images.items():
                put(root / name, data)
        return root

    one, two, other = (opened(made(*args)).fingerprint() for args in (("one", 5), ("two", 5), ("other", 4)))
    assert one == two != other


def test_an_index_that_points_outside_is_refused(tmp_path):
    root = make_release(tmp_path / "release")
    table = pq.read_table(root / "index.parquet")
    names = ["../secret.tar"] * len(table)
    pq.write_table(table.set_column(1, "shard", [names]), root / "index.parquet")
    with pytest.raises(ValueError, match="points outside"):
        opened(root)


def test_a_shard_that_is_too_short_is_not_a_corrupt_image(tmp_path):
    root = make_release(tmp_path / "release")
    (root / "00001.tar").write_bytes(b"")
    release = opened(root)
    lost = next(i for i in range(24) if "00001.tar" in release.name(i))
    with pytest.raises(OSError, match=r"00001\.tar: ends before"):
        release.read(lost)


@pytest.mark.parametrize("what", ["release", "folder", "tars", "parquet"])
def test_nothing_to_train_on_is_said(tmp_path, what):
    folder = tmp_path / what
    if what == "release":
        pq.write_table(pq.read_table(make_release(folder) / "index.parquet").slice(0, 0), folder / "index.parquet")
    elif what == "folder":
        put(folder / "notes.txt")
    elif what == "tars":
        put_tar(folder / "0.tar", {})
    else:
        put_parquet(folder / "0.parquet", {"jpg": pa.array([], pa.binary())})
    with pytest.raises(ValueError, match="there is no image in it"):
        opened(folder)


def test_tars_without_an_index_are_read_in_order(tmp_path):
    long = "n" * 200  # takes a header of its own
    put_tar(tmp_path / "b/1.tar", {"k2.jpg": b"two", "k2.json": b"{}"}, format=tarfile.GNU_FORMAT)
    put_tar(tmp_path / "b/2.tar", {})
    put_tar(tmp_path / "a.tar", {"x/k1.JPG": b"one", "x/._k1.jpg": b"apple", f"{long}.png": b"long", "note.txt": b"-"})
    tars = opened(tmp_path)
    assert everything(tars) == [b"one", b"long", b"two"]
    assert everything(opened(str(tmp_path / "b/*.tar"))) == [b"two"]
    assert everything(opened(tmp_path / "a.tar")) == [b"one", b"long"]


def test_a_release_read_without_its_index_has_the_same_images(tmp_path):
    root = make_release(tmp_path / "release")
    assert set(everything(opened(str(root / "*.tar")))) == set(everything(opened(root)))


def test_links_within_a_tar_are_no_images(tmp_path):
    path = put_tar(tmp_path / "0.tar", {"a.jpg": b"a"})
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("b.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert everything(opened(path)) == [b"a"]


def test_a_sample_with_several_images_needs_a_field(tmp_path):
    put_tar(tmp_path / "0.tar", {"1.jpg": b"a", "1.seg.png": b"m", "2.jpg": b"b", "2.seg.png": b"n"})
    with pytest.raises(ValueError, match=r"1\.seg\.png is of the same sample .* data\.field=seg\.png"):
        opened(tmp_path)
    assert everything(opened(tmp_path, "JPG")) == [b"a", b"b"]
    assert everything(opened(tmp_path, "seg.png")) == [b"m", b"n"]
    assert everything(opened(tmp_path, "*g")) == [b"a", b"m", b"b", b"n"]


def damaged(data: bytes) -> bytes:
    """The header of the second member is another's."""
    return data[:1024] + b"\xff" * 512 + data[1536:]


@pytest.mark.parametrize("harm", [lambda data: data[:1000], lambda data: data[:1300], damaged, lambda _: b""])
def test_a_damaged_tar_is_refused(tmp_path, harm):
    path = put_tar(tmp_path / "0.tar", {"1.jpg": bytes(500), "2.jpg": bytes(500)})
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(
        ValueError, match=r"0\.tar: is (no whole, uncompressed tar|damaged at byte 1024).*copy it again"
    ):
        opened(tmp_path)


def test_a_range_misses_no_shard(tmp_path):
    for number in (8, 9, 10):
        put_tar(tmp_path / f"{number:03d}.tar", {f"{number}.jpg": bytes([number])})
    assert everything(opened(str(tmp_path / "{008..010}.tar"))) == [b"\x08", b"\t", b"\n"]
    with pytest.raises(ValueError, match=r"011\.tar: no such file, and 1 more"):
        opened(str(tmp_path / "{008..012}.tar"))


def test_what_cannot_be_told_apart_is_refused(tmp_path):
    put_tar(tmp_path / "mixed/0.tar", {"1.jpg": b"a"})
    put(tmp_path / "mixed/1.jpg")
    put(tmp_path / "packed/0.tar.gz")
    put(tmp_path / "plain/0.jpg")
    with pytest.raises(ValueError, match="holds tars and images"):
        opened(tmp_path / "mixed")
    with pytest.raises(ValueError, match="names images and tars"):
        opened(str(tmp_path / "mixed/*"))
    with pytest.raises(ValueError, match=r"0\.tar\.gz: .* unpack it"):
        opened(tmp_path / "packed")
    with pytest.raises(ValueError, match=r"data\.field = 'jpg'.* leave it out"):
        opened(tmp_path / "plain", "jpg")
    with pytest.raises(ValueError, match=r"data\.field = 'jpg'.* leave it out"):
        opened(make_release(tmp_path / "release"), "jpg")
    with pytest.raises(ValueError, match="no such folder or file"):
        opened(tmp_path / "absent")


def test_parquet_beside_tars_holds_their_records(tmp_path):
    put_tar(tmp_path / "0.tar", {"1.jpg": b"a"})
    put_parquet(tmp_path / "0.parquet", {"url": ["u"]})
    assert everything(opened(tmp_path)) == [b"a"]


def test_parquet_is_read_by_row_group(tmp_path, monkeypatch):
    images = [bytes([i]) * 1000 for i in range(22)]
    put_parquet(tmp_path / "a.parquet", {"jpg": images[:10], "caption": ["c"] * 10})
    put_parquet(tmp_path / "b.parquet", {"jpg": [*images[10:21], None], "caption": ["c"] * 12})
    read = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, g, **k: read.append(g) or whole(self, g, **k))
    monkeypatch.setattr(parquet, "MAX_HELD_BYTES", 9000)  # two groups
    source = opened(tmp_path)
    assert everything(source) == [*images[:21], b""]
    assert read == [0, 1, 2, 0, 1, 2]
    assert [source.read(i) for i in (21, 14, 20)] == [b"", images[14], images[20]]
    assert len(read) == 6
    assert source.read(0) == images[0]
    assert len(read) == 7
    assert source.name(21).endswith("b.parquet, row group 2, row 3")
    assert everything(pickle.loads(pickle.dumps(source))) == everything(source)


def test_the_column_of_parquet_may_lie_in_a_structure(tmp_path):
    images = [{"bytes": jpeg(i), "path": f"{i}.jpg"} for i in range(3)]
    masks = [{"bytes": b"m", "path": None}] * 3
    put_parquet(tmp_path / "one/0.parquet", {"image": images, "label": [1, 2, 3]})
    put_parquet(tmp_path / "two/0.parquet", {"image": [images[0], None, images[2]], "mask": masks})
    assert everything(opened(tmp_path / "one")) == [jpeg(i) for i in range(3)]
    with pytest.raises(ValueError, match=r"has 2 columns of bytes \(image\.bytes, mask\.bytes\); name one"):
        opened(tmp_path / "two")
    assert everything(opened(tmp_path / "two", "image.bytes")) == [jpeg(0), b"", jpeg(2)]
    with pytest.raises(ValueError, match=r"data\.field = 'jpg': its columns of bytes are image\.bytes"):
        opened(tmp_path / "one", "jpg")


def test_parquet_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    path = put_parquet(tmp_path / "0.parquet", {"jpg": [bytes(100)] * 9}, group=9)
    monkeypatch.setattr(parquet, "MAX_HELD_BYTES", 50)
    with pytest.raises(ValueError, match=r"row group 0 has \d+ bytes in jpg, .* row_group_size=100"):
        opened(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="is no whole Parquet file"):
        opened(path)


def test_several_sources_are_one(tmp_path):
    put(tmp_path / "folder/a.jpg", b"a")
    put_tar(tmp_path / "0.tar", {"1.jpg": b"b", "2.jpg": b"c"})
    release = make_release(tmp_path / "release", 3)
    names = [str(tmp_path / "folder"), str(tmp_path / "0.tar"), str(release)]
    several = open_source(Data.model_validate_json(f'{{"release": {names!r}}}'.replace("'", '"')))
    assert everything(several) == [b"a", b"b", b"c", *everything(Release(release))]
    assert several.name(2).startswith(names[1])
    assert several.fingerprint() != opened((*names[:2],)).fingerprint()
    assert several.merkle_root() is None
    assert opened((str(release), str(release))).merkle_root() == ",".join(["ab" * 32] * 2)
