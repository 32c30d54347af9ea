"""A source folder imported into a store, without Spark."""

import io
import json
import tarfile
from pathlib import Path

from curation.images.copies import Copies
from curation.images.ids import image_id
from curation.images.imports import imported
from curation.store import Store, open_uri

RUN = "0123456789abcdef"


def store_of(folder: Path) -> Store:
    """A store beside ``folder`` that knows it as the source "photos"."""
    root = folder.parent / "store"
    root.mkdir(exist_ok=True)
    (root / "sources.json").write_text(json.dumps({"photos": f"file://{folder}"}))
    return Store(str(root))


def import_all(folder: Path) -> list[dict]:
    """The rows of everything in ``folder``; each image's bytes have been read back from where its row says."""
    store = store_of(folder)
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()]
    found = imported(
        "photos", names, lambda shard: open_uri(store.shard_uri(shard)), lambda place: Copies(store.uri, RUN, place)
    )
    rows = list(found)
    for row in rows:
        assert (row["image_id"] is None) == (row["reason"] is not None), row
        if row["image_id"]:
            assert image_id(store.read_image(row["shard"], row["offset_bytes"], row["size_bytes"])) == row["image_id"]
    return rows


def tar_of(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file.getvalue()
