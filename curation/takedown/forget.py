"""What each table of a store is without some images and URLs: pure functions of Arrow tables.

Most tables lose the rows. The ledger tells afterwards what it would tell had the takedown come before the run: a URL
was refused by ``extract_links``, a file of the user's by ``index``, and no later stage saw the image. So its counts
still add up, and a stage that runs again reads what the others say. Rows of other images stay, and name nobody else.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curation.schema import DECISIONS, DROP, KEEP, Reason, is_embeddings
from curation.takedown.tombstones import IMAGE, URL, Tombstones, is_id

_KEYS = {  # table -> its columns that name an image, and those that name a URL
    "links": ((), ("url",)),
    "fetches": ((), ("url", "final_url")),
    "files": (("image_id",), ("url",)),
    "images": (("image_id",), ()),
    "screened": (("image_id",), ()),
    "detections": (("image_id",), ()),
    "sightings": (("image_id",), ("url",)),
    "collections": (("image_id",), ()),
    "edges": (("lower_id", "higher_id"), ()),
    "references": (("image_id",), ()),
    "forest": (("lower_id", "higher_id"), ()),
    "clusters": (("image_id",), ()),
    "retrievals": (("image_id", "query_id"), ()),
    "own_images": (("image_id",), ()),
    "own_detections": (("image_id",), ()),
    "selection": (("image_id",), ()),
}
_EMBEDDED = (("image_id",), ())
_OF_COMPONENTS = ("image_id", "component", "representative", "witness")
_OF_DECISIONS = ("image_id", "url", "evidence")
_UP_TO_INDEX = ("extract_links", "download", "index")


@dataclass(frozen=True)
class Change:
    """How a table forgets.

    Attributes:
        columns: those that tell whether it must.
        touches: whether rows with these columns must be changed.
        apply: rows to the rows that stay.
    """

    columns: tuple[str, ...]
    touches: Callable[[pa.Table], bool]
    apply: Callable[[pa.Table], pa.Table]


@dataclass(frozen=True)
class Forget:
    """What is to be forgotten, and under which key and request.

    Attributes:
        images: ids.
        urls: normalised.
        stones: what stands for them in the ledger.
        request: that the ledger names.
    """

    images: tuple[str, ...]
    urls: tuple[str, ...]
    stones: Tombstones
    request: str

    @cached_property
    def _images(self) -> pa.Array:
        return pa.array(self.images, pa.string())

    @cached_property
    def _urls(self) -> pa.Array:
        return pa.array(self.urls, pa.string())

    def change(self, table: str, relabelled: Mapping[str, str] | None = None) -> Change | None:
        """The change of a table; None for one that names no image.

        Args:
            table: its name.
            relabelled: of ``components``: new labels (``new_labels``).
        """
        if table == DECISIONS.name:
            touches = partial(self._touches, images=_OF_DECISIONS, urls=("url", "evidence"))
            return Change(_OF_DECISIONS, touches, self._restated)
        if table == "components":
            touches = partial(self._touches, images=_OF_COMPONENTS, urls=())
            return Change(_OF_COMPONENTS, touches, partial(self._of_others, labels=relabelled or {}))
        keys = _KEYS.get(table, _EMBEDDED if is_embeddings(table) else None)
        if keys is None:
            return None
        images, urls = keys
        touches = partial(self._touches, images=images, urls=urls)
        return Change((*images, *urls), touches, partial(self._without, images=images, urls=urls))

    def _touches(self, rows: pa.Table, images: Iterable[str], urls: Iterable[str]) -> bool:
        return bool(pc.any(self._named(rows, images, urls)).as_py())

    def _named(self, rows: pa.Table, images: Iterable[str], urls: Iterable[str]) -> pa.ChunkedArray:
        """[n] bool: which rows name an image or URL that goes."""
        mask = pa.chunked_array([pa.repeat(pa.scalar(False), len(rows))], pa.bool_())
        for columns, gone in ((images, self._images), (urls, self._urls)):
            for column in columns:
                mask = pc.or_(mask, pc.is_in(rows[column], gone))
        return mask

    def _without(self, rows: pa.Table, images: Iterable[str], urls: Iterable[str]) -> pa.Table:
        return rows.filter(pc.invert(self._named(rows, images, urls)))

    def _of_others(self, rows: pa.Table, labels: Mapping[str, str]) -> pa.Table:
        """Components without the images; where one stood for others, who does is open until dedup runs again."""
        rows = self._without(rows, ("image_id",), ())
        for column in ("representative", "witness"):
            names = pc.if_else(pc.is_in(rows[column], self._images), pa.scalar(None, pa.string()), rows[column])
            rows = rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), names)
        names = pa.array([labels.get(label, label) for label in rows["component"].to_pylist()], pa.string())
        return rows.set_column(rows.schema.get_field_index("component"), rows.schema.field("component"), names)

    def _restated(self, rows: pa.Table) -> pa.Table:
        named = self._named(rows, _OF_DECISIONS, ("url", "evidence"))
        restated = [r for row in rows.filter(named).to_pylist() if (r := self._decision(row)) is not None]
        return pa.concat_tables([rows.filter(pc.invert(named)), pa.Table.from_pylist(restated, rows.schema)])

    def _decision(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """One ledger row as it is told from now on; None: not at all."""
        is_ours, is_refused = row["image_id"] in self._held, row["url"] in self._held
        if row["stage"] == "extract_links" and is_refused:
            row = row | {"url": self.stones.token(row["url"])}
            return self._taken_down(row) if row["decision"] == KEEP else row
        if row["stage"] in _UP_TO_INDEX and is_refused:
            return None
        if row["stage"] == "index" and is_ours:
            return self._taken_down(row | {"image_id": None, "url": self.stones.token(row["url"])})
        if is_ours:
            return None
        kind = IMAGE if is_id(row["evidence"]) else URL
        return row | {"evidence": self.stones.token(row["evidence"], kind)}

    @cached_property
    def _held(self) -> frozenset[str]:
        return frozenset((*self.images, *self.urls))

    def _taken_down(self, row: dict[str, Any]) -> dict[str, Any]:
        cleared = {"score": None, "threshold": None, "model": None}
        said = {"decision": DROP, "reason": Reason.TAKEN_DOWN.value, "evidence": f"request {self.request}"}
        return row | cleared | said


def new_labels(components: pa.Table, images: Iterable[str]) -> dict[str, str]:
    """For components that bear the id of an image that goes: the lowest id of those that stay."""
    gone = pa.array(list(images), pa.string())
    rows = components.filter(pc.is_in(components["component"], gone))
    rows = rows.filter(pc.invert(pc.is_in(rows["image_id"], gone)))
    lowest = rows.group_by("component").aggregate([("image_id", "min")])
    return dict(zip(lowest["component"].to_pylist(), lowest["image_id_min"].to_pylist(), strict=True))


def without_rows(tiles: pa.Table, num_rows: Mapping[tuple[str, int], int]) -> pa.Table:
    """The catalogue of index shards with other numbers of rows in some tiles; an empty tile is no longer named."""
    places = zip(tiles["shard"].to_pylist(), tiles["batch"].to_pylist(), tiles["num_rows"].to_pylist(), strict=True)
    counts = pa.array([num_rows.get((shard, batch), held) for shard, batch, held in places], pa.int32())
    tiles = tiles.set_column(tiles.schema.get_field_index("num_rows"), tiles.schema.field("num_rows"), counts)
    return tiles.filter(pc.greater(tiles["num_rows"], 0))
