"""The tables of a store: one ``pyarrow.Schema`` each, with a version that changes when the meaning does.

Every wall between two stages is one of these tables. ``decisions`` is the ledger: append-only, one row for every
unit that a stage looked at, kept or dropped, with a reason from :class:`Reason`.
"""

import enum
from dataclasses import dataclass

import pyarrow as pa


class Reason(enum.StrEnum):
    """Why a stage dropped a unit. The set is closed: a stage cannot invent one."""

    # extract_links: the unit is an image URL, or a page file or record that could not be read
    BROKEN_FILE = "broken_file"
    BROKEN_RECORD = "broken_record"
    DATA_URI = "data_uri"
    MALFORMED_URL = "malformed_url"
    BLOCKED_DOMAIN = "blocked_domain"
    BLOCKED_SUFFIX = "blocked_suffix"
    BLOCKED_PATTERN = "blocked_pattern"
    PAGE_OPTED_OUT = "page_opted_out"
    # download: the unit is a URL
    ROBOTS_DISALLOWED = "robots_disallowed"
    ROBOTS_UNREACHABLE = "robots_unreachable"
    PRIVATE_ADDRESS = "private_address"
    HEADER_OPTED_OUT = "header_opted_out"
    HTTP_ERROR = "http_error"
    CONNECTION_FAILED = "connection_failed"
    TIMED_OUT = "timed_out"
    TOO_MANY_BYTES = "too_many_bytes"
    INCOMPLETE_BODY = "incomplete_body"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    # index: the unit is a fetched or imported file
    EXACT_DUPLICATE = "exact_duplicate"
    EMPTY_FILE = "empty_file"
    NO_PICTURE = "no_picture"  # a text, a film, a table without image bytes
    COMPRESSED_ARCHIVE = "compressed_archive"
    NOT_DOWNLOADED = "not_downloaded"  # by whoever made the data set that is imported
    # screen: from here on the unit is an image
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    TOO_MANY_PIXELS = "too_many_pixels"
    ANIMATED = "animated"
    TOO_SMALL = "too_small"
    BAD_ASPECT = "bad_aspect"
    BLANK = "blank"
    PCA_HASH_DUPLICATE = "pca_hash_duplicate"
    NSFW = "nsfw"
    # embed, dedup, retrieve, publish
    EMBEDDING_FAILED = "embedding_failed"
    NEAR_DUPLICATE = "near_duplicate"
    EVALUATION_COPY = "evaluation_copy"
    NOT_RETRIEVED = "not_retrieved"
    OVER_CAP = "over_cap"
    OVER_BUDGET = "over_budget"
    TAKEN_DOWN = "taken_down"
    UNREADABLE = "unreadable"
    FACE_REMAINS = "face_remains"


KEEP, DROP = "keep", "drop"

POOL = "pool"  # the collection of the images that are being curated

STAGES = ("extract_links", "download", "index", "screen", "embed", "dedup", "cluster", "retrieve", "publish")


@dataclass(frozen=True)
class Table:
    """A table's name, Arrow schema, version, and the columns it is partitioned by.

    ``appended`` tables hold facts that are never replaced: a run adds those that are not there yet.
    """

    name: str
    schema: pa.Schema
    version: int = 1
    partition_by: tuple[str, ...] = ()
    appended: bool = False


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


LINKS = Table(
    "links",  # one row for every (page, image URL) pair
    _schema(
        url=pa.string(),  # normalised
        page_url=pa.string(),
        alt=pa.string(),
        domain=pa.string(),  # registrable domain of the image URL
        crawl=pa.string(),  # name of the crawl, from the configuration
        file=pa.string(),  # the page file, relative to its source
        offset=pa.int64(),  # byte offset of the record in the file, or of the row in a URL list
        crawled_at=pa.string(),  # ISO 8601 as the crawl states it; null where it does not
        rights=pa.list_(pa.string()),  # signals observed on the page, e.g. "meta:noai", "header:noimageai"
        reason=pa.string(),  # why it is no link to ask for, or was not read; null for a good link
        detail=pa.string(),
    ),
)

FILES = Table(
    "files",  # every fetched or imported file, with the id of its content
    _schema(
        image_id=pa.string(),  # null where there is a reason
        url=pa.string(),  # of an imported file only where something beside it tells
        path=pa.string(),  # "<source name>:<relative path>[#<member, or column/row>]" if imported; null if fetched
        shard=pa.string(),
        offset_bytes=pa.int64(),
        size_bytes=pa.int64(),
        page_url=pa.string(),  # this and the next two of an imported file, where something beside it tells
        domain=pa.string(),
        caption=pa.string(),
        companions=pa.int32(),  # files that came with it and are no units: texts, records
        reason=pa.string(),  # why it may not be looked at as a picture; null for one that may
        detail=pa.string(),
    ),
    version=2,
)

IMAGES = Table(
    "images",  # every encoded image once
    _schema(
        image_id=pa.string(),  # hex of the first 128 bits of the SHA-256 of the encoded bytes
        shard=pa.string(),  # "store:<path>" or "<name of a sources.images entry>:<path>"
        offset_bytes=pa.int64(),  # of the encoded bytes within the shard
        size_bytes=pa.int64(),
    ),
)

SCREENED = Table(
    "screened",  # what decoding showed of every image, refused or not, so that other limits need no decoding
    _schema(
        image_id=pa.string(),
        format=pa.string(),  # as decoded: JPEG, PNG, ...
        width=pa.int64(),  # of the upright picture; as declared, up to 2**32 - 1, where it was not decoded
        height=pa.int64(),
        num_frames=pa.int64(),  # of an animation; pages of a TIFF
        entropy=pa.float64(),  # of the thumbnail's luma, in bits
        pca_hash=pa.string(),  # hex; null for a flat picture
        reason=pa.string(),  # why it does not decode or is refused; null for a good image
        detail=pa.string(),
        score=pa.float64(),  # what the refusing rule measured
        threshold=pa.float64(),
    ),
    version=2,
)

DETECTIONS = Table(
    "detections",  # what the detectors found in the images; which ones ran is in the run's metrics
    _schema(
        image_id=pa.string(),
        detector=pa.string(),  # its name in the recipe
        label=pa.string(),  # face, nsfw, ...
        score=pa.float32(),  # 0 to 1
        x=pa.int32(),  # of the box, in pixels of the upright picture; null where the whole picture is meant
        y=pa.int32(),
        width=pa.int32(),
        height=pa.int32(),
        model=pa.string(),  # digest of the detector
    ),
)

SIGHTINGS = Table(
    "sightings",  # where the bytes of an image were met: many to one image
    _schema(
        image_id=pa.string(),
        url=pa.string(),  # null for imported images of unknown origin
        page_url=pa.string(),
        domain=pa.string(),
        crawl=pa.string(),
        path=pa.string(),  # as in files; null for a fetched image
        caption=pa.string(),  # that came with an imported image; the alt texts of fetched ones are in links
        rights=pa.list_(pa.string()),
    ),
    version=2,
)

ROBOTS = Table(
    "robots",  # robots.txt of every host, fetched once
    _schema(host=pa.string(), status=pa.string(), body=pa.string()),
)

FETCHES = Table(
    "fetches",  # the outcome of every URL that was asked for
    _schema(
        url=pa.string(),
        final_url=pa.string(),  # behind all redirects, for a success
        shard=pa.string(),  # as in images; null where nothing was written
        offset_bytes=pa.int64(),
        size_bytes=pa.int64(),
        reason=pa.string(),  # null for a success
        detail=pa.string(),
        rights=pa.list_(pa.string()),  # signals in the response headers
    ),
    version=2,
)

DECISIONS = Table(
    "decisions",
    _schema(
        stage=pa.string(),
        image_id=pa.string(),  # null before an image exists
        url=pa.string(),  # the URL, or "file#offset" of a broken record; null where image_id is the subject
        decision=pa.string(),  # keep | drop
        reason=pa.string(),  # a Reason; null for keep
        score=pa.float64(),
        threshold=pa.float64(),
        evidence=pa.string(),  # an image_id, a URL, a rule, a box
        model=pa.string(),  # hash of the model that scored, where one did
        run_id=pa.string(),
    ),
    partition_by=("stage",),
    appended=True,
)

COLLECTIONS = Table(
    "collections",  # the images of the named evaluation and query sets
    _schema(
        collection=pa.string(),
        image_id=pa.string(),
        path=pa.string(),  # in the collection's folder; "a.tar#member" where it lies in a tar
        shard=pa.string(),  # as in images
        offset_bytes=pa.int64(),
        size_bytes=pa.int64(),
    ),
    version=2,
)

TILES = Table(
    "tiles",  # what index shards hold: one row for every record batch, which has vectors of one list
    _schema(
        index=pa.string(),  # digest of the model and the codebook (curation.neighbours.index.IndexKey)
        collection=pa.string(),  # "pool", a reference set's name, or "<name of another store>@<its id>"
        snapshot=pa.int32(),  # 0, 1, 2, ... in the order they were added to this index
        shard=pa.string(),  # relative to the store whose index it is
        batch=pa.int32(),  # number of the record batch in its shard
        list=pa.int32(),
        visiting=pa.bool_(),  # whether this list is another one than the nearest of its vectors
        num_rows=pa.int32(),
    ),
    version=2,
    appended=True,
)

EDGES = Table(
    "edges",  # pairs that a join found, of every index and threshold, whether or not both images are still there
    _schema(
        index=pa.string(),  # whose vectors and lists they come from
        collection=pa.string(),  # as in tiles; "pool" within the pool, else where higher_id belongs
        lower_id=pa.string(),
        higher_id=pa.string(),
        similarity=pa.float32(),
    ),
    version=3,
    appended=True,
)

REFERENCES = Table(
    "references",  # images that lie in other stores' pools now and have an edge to this one's
    _schema(collection=pa.string(), image_id=pa.string()),  # the collection as in edges
)

COMPONENTS = Table(
    "components",  # every image with an edge within the pool, evaluation copies and their edges left out
    _schema(
        image_id=pa.string(),
        component=pa.string(),  # lowest image_id of the component
        representative=pa.string(),  # the image that stays in its place: itself, or of whose kind dedup.mode says
        witness=pa.string(),  # the most similar neighbour; the representative where it is one
        similarity=pa.float32(),  # to the witness
    ),
    version=3,
)

FOREST = Table(
    "forest",  # a maximum spanning forest of the pool's edges: its edges above any threshold connect what all those do
    _schema(lower_id=pa.string(), higher_id=pa.string(), similarity=pa.float32()),
)

CENTROIDS = Table(
    "centroids",  # a tree of clusters: images belong to those of level 0
    _schema(
        level=pa.int32(),
        cluster=pa.int32(),  # within the level
        parent=pa.int32(),  # cluster of the level above; null at the top
        vector=pa.binary(),  # float32, little endian
    ),
    version=2,
)

CLUSTERS = Table(
    "clusters",
    _schema(collection=pa.string(), image_id=pa.string(), cluster=pa.int32(), similarity=pa.float32()),
)

RETRIEVALS = Table(
    "retrievals",  # every candidate that a query set brought up, before selection
    _schema(
        collection=pa.string(),
        query_id=pa.string(),  # null for cluster-based retrieval
        image_id=pa.string(),
        rank=pa.int32(),
        similarity=pa.float32(),
        source=pa.string(),  # sample | cluster | as_is | all | balanced
    ),
)

OWN_IMAGES = Table(
    "own_images",  # images of the sets taken as they are that the pool, as deduplication left it, does not hold
    _schema(
        image_id=pa.string(),
        path=pa.string(),  # "<collection>:<path in it>"
        shard=pa.string(),  # as in images
        offset_bytes=pa.int64(),
        size_bytes=pa.int64(),
        format=pa.string(),  # this and the next two as in screened
        width=pa.int64(),
        height=pa.int64(),
        reason=pa.string(),  # why it may not be released; null for one that may
        evidence=pa.string(),
        score=pa.float64(),
        threshold=pa.float64(),
    ),
)

OWN_DETECTIONS = Table("own_detections", DETECTIONS.schema)  # what the detectors of the screening found in them

SELECTION = Table(
    "selection",
    _schema(image_id=pa.string(), collection=pa.string(), source=pa.string(), rank=pa.int32(), cluster=pa.int32()),
)

RELEASE_SHARDS = Table(
    "release_shards",  # what the tars of the last release were made from, so that equal ones are not made again
    _schema(
        number=pa.int32(),
        inputs=pa.string(),  # SHA-256 over the ids and facts of its images and the detectors that judge a blur
        size_bytes=pa.int64(),
        sha256=pa.string(),
        images=pa.int64(),
    ),
)

TAKEDOWNS = Table(
    "takedowns",  # what is kept out, by keyed hash (curation.takedown.tombstones): it names nobody without the key
    _schema(
        tombstone=pa.string(),  # hex
        kind=pa.string(),  # image | url | domain
        request=pa.string(),  # which request asked for it; its receipt is takedowns/<request>.json of the store
        requested_at=pa.string(),  # ISO 8601, UTC
    ),
    version=2,
    appended=True,
)


def embeddings(model: str) -> Table:
    """The embeddings under one name of a recipe: facts of (image_id, model), of whatever set the image is.

    An image that could not be embedded at first may have a row with a vector besides, and rows of images that are
    no longer in the pool stay: readers ask for ids, a model's digest and vectors that are not null.
    """
    return Table(
        f"{_EMBEDDINGS}{model}",
        _schema(
            image_id=pa.string(),
            vector=pa.binary(),  # little-endian float16; null where the image could not be embedded
            model=pa.string(),  # digest of the embedder
            error=pa.string(),
        ),
        version=2,
        appended=True,
    )


_EMBEDDINGS = "embeddings_"


RUNS = Table(
    "runs",  # one row for every finished run of a stage; the last of a stage is current. JSON columns are canonical
    _schema(
        sequence=pa.int64(),  # 0, 1, 2, ... in the order the runs finished
        stage=pa.string(),
        run_id=pa.string(),
        recipe=pa.string(),  # JSON: the stage's recipe section
        inputs=pa.string(),  # JSON: upstream stage -> run_id, source -> fingerprint
        tables=pa.string(),  # JSON: written table -> Delta version
        rows_in=pa.int64(),
        kept=pa.int64(),
        dropped=pa.string(),  # JSON: reason -> rows
        metrics=pa.string(),  # JSON: whatever else the stage measured
    ),
    appended=True,
)

TABLES = {
    table.name: table
    for table in (
        LINKS, FILES, IMAGES, SCREENED, DETECTIONS, SIGHTINGS, ROBOTS, FETCHES, DECISIONS, COLLECTIONS, TILES,
        EDGES, REFERENCES, COMPONENTS, FOREST, CENTROIDS, CLUSTERS, RETRIEVALS, OWN_IMAGES, OWN_DETECTIONS, SELECTION,
        RELEASE_SHARDS, TAKEDOWNS, RUNS,
    )
}  # fmt: skip


def is_appended(name: str) -> bool:
    """Whether a table of this name holds facts that are never replaced."""
    return is_embeddings(name) or (name in TABLES and TABLES[name].appended)


def is_embeddings(name: str) -> bool:
    """Whether a table of this name holds embeddings."""
    return name.startswith(_EMBEDDINGS)
