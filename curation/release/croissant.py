"""Croissant metadata (JSON-LD, version 1.0 of the vocabulary): what the files are and what the index's columns mean."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}

_MEANING = {
    "image_id": "first 128 bits of the SHA-256 of the encoded bytes that were curated",
    "shard": "tar that holds the image",
    "member": "name within the tar",
    "offset_bytes": "where the encoded bytes begin in the tar",
    "size_bytes": "length of the encoded bytes",
    "sha256": "of the released bytes",
    "metadata_sha256": "of the JSON member that follows the image",
    "blurred": "number of regions made unrecognisable; 0: the released bytes are those that were curated",
    "source": "set of query images that asked for it",
    "cluster": "cluster of the image within the curated pool",
}


def croissant(
    name: str, index_sha256: str, shards: Sequence[dict[str, Any]], index: pa.Schema, safety: str
) -> dict[str, Any]:
    """The JSON-LD document.

    Args:
        name: of the data set.
        index_sha256: of ``index.parquet``.
        shards: dicts with name, size_bytes and sha256.
        index: schema of ``index.parquet``; each column becomes a field.
        safety: what was looked for in the images, in sentences.
    """
    files = [_file("index.parquet", "application/vnd.apache.parquet", index_sha256)]
    files += [_file(s["name"], "application/x-tar", s["sha256"], s["size_bytes"]) for s in shards]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": "Images curated from web pages. Each shard is a WebDataset tar: <image_id>.<extension> with the "
        "encoded image, then <image_id>.json with what is known of it. " + safety,
        "distribution": files,
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "key": {"@id": "images/image_id"},
                "field": [_field(column) for column in index],
            }
        ],
    }


def _file(name: str, kind: str, sha256: str, size_bytes: int | None = None) -> dict[str, Any]:
    file = {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": kind,
        "sha256": sha256,
    }
    return file if size_bytes is None else file | {"contentSize": f"{size_bytes} B"}


def _field(column: pa.Field) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"images/{column.name}",
        "name": column.name,
        "description": _MEANING[column.name],
        "dataType": "sc:Integer" if pa.types.is_integer(column.type) else "sc:Text",
        "source": {"fileObject": {"@id": "index.parquet"}, "extract": {"column": column.name}},
    }
