"""Others read a release with the packages they have."""

import io
import json

import polars
import pytest
from PIL import Image

from tests.curation.release.build import PICTURES, REGIONS, build


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers") / "release"
    build(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_webdataset_reads_every_sample(release):
    webdataset = pytest.importorskip("webdataset")
    shards = sorted(str(path) for path in release.glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert {s["__key__"]: s["png"] for s in samples} == PICTURES
    assert all(json.loads(s["json"])["blurred"] == REGIONS.get(s["__key__"], []) for s in samples)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_datasets_reads_every_sample(release, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(str(release), split="train", cache_dir=str(tmp_path))
    assert sorted(rows["__key__"]) == sorted(PICTURES)
    by_key = {row["__key__"]: row["png"] for row in rows}
    assert {row["__key__"]: len(row["json"]["blurred"]) for row in rows if row["json"]["blurred"]} == {
        name: len(regions) for name, regions in REGIONS.items()
    }
    for name, data in list(PICTURES.items())[:3]:
        with Image.open(io.BytesIO(data)) as image:
            assert by_key[name].size == image.size


def test_polars_reads_the_index(release):
    index = polars.read_parquet(release / "index.parquet")
    assert sorted(index["image_id"].to_list()) == sorted(PICTURES)
    assert index["blurred"].sum() == sum(map(len, REGIONS.values()))
    row = index.row(0, named=True)
    with (release / row["shard"]).open("rb") as file:
        file.seek(row["offset_bytes"])
        assert file.read(row["size_bytes"]) == PICTURES[row["image_id"]]


@pytest.mark.filterwarnings("ignore")
def test_mlcroissant_validates_the_metadata(release):
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(jsonld=str(release / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    (records,) = dataset.metadata.record_sets
    assert {field.id.rpartition("/")[2] for field in records.fields} >= {"image_id", "shard", "offset_bytes"}
