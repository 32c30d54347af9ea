"""The report's own words for stages, reasons and scores."""

STAGE_TITLES = {
    "extract_links": "Find image links",
    "download": "Download",
    "index": "Index by content",
    "screen": "Screen",
    "embed": "Describe",
    "dedup": "Remove near-duplicates and evaluation copies",
    "cluster": "Cluster",
    "retrieve": "Retrieve",
    "publish": "Publish",
}

# Each is the rule that was applied, as a sentence.
RULES = {
    "broken_file": "The page file could not be read at all.",
    "broken_record": "A record inside a page file could not be read.",
    "data_uri": "The picture is written into the page itself; there is no address to ask.",
    "malformed_url": "The link is not an address that can be asked.",
    "blocked_domain": "The domain or host is on a block list.",
    "blocked_suffix": "The host's name ends as a block list forbids.",
    "blocked_pattern": "The address has the form that a block list forbids.",
    "page_opted_out": "The page asks not to be used for training.",
    "robots_disallowed": "The host's robots.txt forbids the address.",
    "robots_unreachable": "The host's robots.txt could not be had, so the host was not asked.",
    "private_address": "The address, or one it redirected to, lies in a private network.",
    "header_opted_out": "The answer's headers ask not to be used for training.",
    "http_error": "The server answered with an error.",
    "connection_failed": "No connection, or it broke.",
    "timed_out": "The answer took too long.",
    "too_many_bytes": "The answer was longer than the recipe allows.",
    "incomplete_body": "The answer ended before its stated length.",
    "too_many_redirects": "The address redirected too often.",
    "exact_duplicate": "Another file has the same bytes; the image is kept once, with every address it was met at.",
    "empty_file": "The file has no bytes.",
    "no_picture": "The file is no picture: a text, a film, a table without images.",
    "compressed_archive": "The archive is compressed, so nothing in it can be read where it lies.",
    "not_downloaded": "Whoever made the imported data set could not download it.",
    "not_an_image": "The bytes are no picture.",
    "unsupported_format": "A picture, but in a format that is not decoded here.",
    "truncated": "The picture ends too early or is damaged.",
    "too_many_pixels": "The header declares more pixels than the recipe decodes.",
    "animated": "It moves, and only its first frame would be looked at.",
    "too_small": "The shorter side is below the recipe's minimum.",
    "bad_aspect": "It is longer, for its width, than the recipe allows.",
    "blank": "It shows next to nothing: the entropy of its luma is below the recipe's minimum.",
    "pca_hash_duplicate": "The PCA hash equals that of an image that was kept.",
    "nsfw": "A detector's score for unsafe content reaches the recipe's threshold.",
    "embedding_failed": "The descriptor could not be computed.",
    "near_duplicate": "The descriptor links it to its witness: an image that stays, or by mode paper one of its group.",
    "evaluation_copy": "The copy descriptor links it, or the group it belongs to, to an image of an evaluation set.",
    "not_retrieved": "No query set asked for it.",
    "over_cap": "A query set brought it up, but had its share without it.",
    "over_budget": "No query set asked for it, and its cluster's share of the balanced sample went to others.",
    "taken_down": "Its removal was requested.",
    "unreadable": "Its bytes could not be read back.",
    "face_remains": "The detector finds a face even after blurring.",
}

# What the ledger's score is, where the reason has one.
SCORES = {
    "pca_hash_duplicate": "distance",
    "near_duplicate": "similarity",
    "evaluation_copy": "similarity",
    "animated": "frames",
    "too_small": "shorter side",
    "bad_aspect": "long side to short side",
    "blank": "bits",
    "too_many_pixels": "pixels",
    "nsfw": "NSFW score",
    "too_many_bytes": "bytes",
    "too_many_redirects": "redirects",
    "not_retrieved": "similarity",
}


def of_its_group(evidence: str) -> str:
    """Why an image is an evaluation copy that is not itself similar enough to an evaluation image."""
    return f"its group of copies touches evaluation image {evidence}"


def measurement(reason: str, score: float | None, threshold: float | None) -> str:
    """What was measured and the limit it was held to: "similarity 0.93, threshold 0.6"; empty without a score."""
    if score is None:
        return ""
    limit = "" if threshold is None else f", threshold {number(threshold)}"
    return f"{SCORES.get(reason, 'score')} {number(score)}{limit}"


def plain(name: str) -> str:
    """A name with spaces: ``near_duplicate`` becomes "near duplicate"."""
    return name.replace("_", " ")


def number(value: float | None) -> str:
    """A measured value: four significant digits, whole numbers with thousands separators."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.4g}"


def many(count: int, noun: str) -> str:
    """A count with its noun: "1 image", "1,200 images"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")
