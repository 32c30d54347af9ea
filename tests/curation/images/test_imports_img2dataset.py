"""What img2dataset's own writers make, imported: addresses and captions are kept, and so is every failure."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.fetch.img2dataset_quiet import import_img2dataset
from curation.images.ids import image_id
from curation.schema import Reason
from tests.curation.images.importing import import_all

SAMPLES = [  # url, caption, bytes, error
    ("http://a.test/0.jpg", "a rose", b"\xff\xd8\xff rose", None),
    ("http://a.test/gone.jpg", "a tulip", None, "HTTP Error 404: Not Found"),
    ("http://shop.example.co.uk/2.jpg", None, b"\xff\xd8\xff none", None),
    ("http://a.test/slow.jpg", "a daisy", None, "<urlopen error timed out>"),
    ("http://a.test/4.jpg", "a rose again", b"\xff\xd8\xff rose", None),
]


def write(folder, writer_class):
    """One shard as img2dataset's downloader hands it to its writer."""
    columns = ["url", "caption", "key", "status", "error_message"]
    schema = pa.schema([(name, pa.string()) for name in columns] + [("width", pa.int32()), ("height", pa.int32())])
    writer = writer_class(0, str(folder), True, 5, schema, "jpg")
    for number, (url, caption, data, error) in enumerate(SAMPLES):
        status = "success" if error is None else "failed_to_download"
        told = {"url": url, "caption": caption, "key": f"{number:09d}", "status": status, "error_message": error}
        writer.write(data, f"{number:09d}", caption, told | {"width": None, "height": None})
    writer.close()
    (folder / "00000_stats.json").write_text('{"count": 5}')


@pytest.mark.parametrize("name", ["WebDatasetSampleWriter", "ParquetSampleWriter", "FilesSampleWriter"])
def test_every_sample_is_a_row(tmp_path, name):
    import_img2dataset()
    from img2dataset import writer

    folder = tmp_path / "laion"
    folder.mkdir()
    write(folder, getattr(writer, name))
    rows = import_all(folder)

    images = {row["url"]: row for row in rows if row["image_id"]}
    assert {url: row["image_id"] for url, row in images.items()} == {
        url: image_id(data) for url, _, data, _ in SAMPLES if data
    }
    # the writers put an empty caption where there is none
    assert {url: row["caption"] or None for url, row in images.items()} == {
        url: caption for url, caption, data, _ in SAMPLES if data
    }
    assert images["http://shop.example.co.uk/2.jpg"]["domain"] == "example.co.uk"

    failed = {row["url"]: row["detail"] for row in rows if row["reason"] == Reason.NOT_DOWNLOADED}
    assert failed == {url: f"failed_to_download: {error}" for url, _, data, error in SAMPLES if not data}

    others = {row["path"]: row["reason"] for row in rows if not row["url"]}
    assert others == {"photos:00000_stats.json": Reason.NO_PICTURE}


def test_a_success_on_record_that_the_tar_does_not_hold_is_a_row(tmp_path):
    import_img2dataset()
    from img2dataset.writer import WebDatasetSampleWriter

    folder = tmp_path / "laion"
    folder.mkdir()
    write(folder, WebDatasetSampleWriter)
    record = pq.ParquetFile(folder / "00000.parquet").read(use_threads=False)
    more = record.slice(0, 1).set_column(2, "key", pa.array(["000000007"]))
    pq.write_table(pa.concat_tables([record, more]), folder / "00000.parquet")
    (lost,) = [row for row in import_all(folder) if row["reason"] and row["path"].endswith("#5")]
    assert lost["reason"] == Reason.NOT_DOWNLOADED
    assert "does not hold 000000007" in lost["detail"]
