"""What is planted where: each function lays one kind of case into the site and records what should become of it."""

import hashlib
from collections.abc import Callable
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps

from curation.images.ids import image_id
from curation.pocket_web import plants
from curation.pocket_web.pages import Shown
from curation.pocket_web.photos import Chain, Tile, face
from curation.pocket_web.site import HOSTS, Site
from curation.pocket_web.truth import KEEP, TileTruth
from curation.schema import Reason

PICTURE_HOSTS = [*HOSTS["ordinary"], *HOSTS["pictures_only"]]
FACE_IN_TILE = (52, 62, 138, 166)  # the astronaut's face within the served picture


def url_of(name: str, suffix: str, not_on: str = "", folder: str = "photos") -> str:
    """An address for a picture: the name decides the host, which is another one than that of ``not_on``."""
    hosts = [host for host in PICTURE_HOSTS if f"//{host}/" not in not_on]
    host = hosts[hashlib.sha256(name.encode()).digest()[0] % len(hosts)]
    return f"http://{host}/{folder}/{name}.{suffix}"


def alt_of(tile: Tile) -> str:
    """What a page says about a tile."""
    return f"{tile.label}, detail {tile.name.removeprefix(tile.label + '-')}"


def web_tiles(site: Site, tiles: list[Tile]) -> list[tuple[Tile, TileTruth]]:
    """Serve distinct tiles on ordinary pages, one in ten as PNG and one in ten as WebP; the JPEG ones come back."""
    jpegs = []
    for number, tile in enumerate(tiles):
        suffix = {3: "png", 7: "webp"}.get(number % 10, "jpg")
        url = url_of(tile.name, suffix)
        record = site.tile(tile, "web", url, plants.encode(tile.pixels, suffix))
        site.show(url, alt_of(tile))
        if suffix == "jpg":
            jpegs.append((tile, record))
    return jpegs


def exact_copies(site: Site, sources: list[tuple[Tile, TileTruth]]) -> None:
    """The same bytes under one more URL, every fourth under two more."""
    for number, (tile, original) in enumerate(sources):
        data = plants.encode(tile.pixels)
        for copy in range(2 if number % 4 == 0 else 1):
            url = url_of(f"{tile.name}-again-{copy}", "jpg", not_on=original.urls[0], folder="mirror")
            site.put(url, data)
            site.show(url, alt_of(tile))
            site.case(
                "exact_copy", "index", Reason.EXACT_DUPLICATE, url, data,
                of=original.urls[0], of_image_id=original.image_id, either=True,
            )  # fmt: skip


def near_exact_copies(site: Site, sources: list[tuple[Tile, TileTruth]]) -> None:
    """The same picture encoded once more at the same size."""
    for tile, original in sources:
        data = plants.reencoded(Image.fromarray(tile.pixels))
        url = url_of(f"{tile.name}-saved", "jpg", not_on=original.urls[0], folder="copies")
        site.put(url, data)
        site.show(url, alt_of(tile))
        site.case(
            "reencoded", "screen", Reason.PCA_HASH_DUPLICATE, url, data,
            of=original.urls[0], of_image_id=original.image_id, also=(Reason.NEAR_DUPLICATE,), either=True,
        )  # fmt: skip


def edited_copies(site: Site, sources: list[tuple[Tile, TileTruth]]) -> None:
    """Copies that only a copy detector finds, every edit in turn."""
    names = list(plants.EDITS)
    for number, (tile, original) in enumerate(sources):
        edit = names[number % len(names)]
        data = plants.EDITS[edit](Image.fromarray(tile.pixels))
        url = url_of(f"{tile.name}-{edit}", "jpg", not_on=original.urls[0], folder="copies")
        site.put(url, data)
        site.show(url, alt_of(tile))
        site.case(
            f"edited_{edit}", "dedup", Reason.NEAR_DUPLICATE, url, data,
            of=original.urls[0], of_image_id=original.image_id, either=True,
            also=(Reason.PCA_HASH_DUPLICATE,) if edit in plants.FAINT_EDITS else (),
        )  # fmt: skip


def chains(site: Site, all_chains: list[Chain]) -> None:
    """Pictures where each resembles the next and the ends share nothing: a component joins them, a pair does not."""
    for chain in all_chains:
        last: TileTruth | None = None
        for tile in chain.tiles:
            data = plants.encode(tile.pixels)
            url = url_of(tile.name, "jpg")
            record = TileTruth(image_id(data), tile.label, "web", tile.box, "", (url,))
            site.put(url, data)
            site.show(url, alt_of(tile))
            if last is None:
                site.case("chain_start", "dedup", KEEP, url, data, also=(Reason.NEAR_DUPLICATE,))
            else:
                site.case(
                    "chain_link", "dedup", Reason.NEAR_DUPLICATE, url, data,
                    of=last.urls[0], of_image_id=last.image_id, also=(KEEP,), either=True,
                )  # fmt: skip
            last = record


def drifts(site: Site, all_chains: list[Chain]) -> None:
    """A-B and B-C are copies and A-C is not: the frame moves on by a twentieth each time, and B is the smallest.

    So B goes, and the two others stay where only a direct edge counts; by whole components one of them would go too.
    """
    for chain in all_chains:
        strip = np.concatenate([chain.tiles[0].pixels, chain.tiles[-1].pixels], axis=1)  # they touch and do not overlap
        side = strip.shape[0]
        frames = [strip[:, left : left + side] for left in (side * k // 20 + side // 3 for k in range(3))]
        middle = Image.fromarray(frames[1]).resize((side * 7 // 8, side * 7 // 8), Image.Resampling.LANCZOS)
        first, second, third = plants.encode(frames[0]), plants.encode(middle), plants.encode(frames[2])
        urls = [url_of(f"{chain.name}-drift-{end}", "jpg") for end in "abc"]
        for kind, url, data in (("drift_end", urls[0], first), ("drift_end", urls[2], third)):
            site.put(url, data)
            site.show(url, chain.name)
            site.case(kind, "dedup", KEEP, url, data)
        site.put(urls[1], second)
        site.show(urls[1], chain.name)
        site.case(
            "drift_middle", "dedup", Reason.NEAR_DUPLICATE, urls[1], second, of=urls[0], of_image_id=image_id(first)
        )


def evaluation_copies(site: Site, leaks: list[tuple[Tile, TileTruth]]) -> None:
    """Held-out pictures on the open web: six with the same bytes, the others edited."""
    names = list(plants.EDITS)
    for number, (tile, original) in enumerate(leaks):
        exact = number < 6
        edit = names[number % len(names)]
        data = plants.encode(tile.pixels) if exact else plants.EDITS[edit](Image.fromarray(tile.pixels))
        url = url_of(f"{tile.name}-benchmark", "jpg", folder="leaks")
        site.put(url, data)
        site.show(url, alt_of(tile))
        kind = "evaluation_exact" if exact else f"evaluation_{edit}"
        site.case(
            kind, "dedup", Reason.EVALUATION_COPY, url, data, of=original.path, of_image_id=original.image_id
        )  # fmt: skip


def one_face(site: Site) -> None:
    """A face that stays in the release, blurred."""
    tile = face()
    data = plants.encode(tile.pixels)
    url = "http://news.test/portraits/astronaut.jpg"
    site.tile(tile, "web", url, data)
    site.show(url, "astronaut, portrait")
    site.case("face", "publish", KEEP, url, data, face_boxes=(FACE_IN_TILE,))


def group_portrait(site: Site) -> None:
    """Two faces side by side, the second one mirrored and smaller."""
    pixels = face().pixels
    side = pixels.shape[0]
    picture = Image.new("RGB", (2 * side, side), (70, 74, 80))
    picture.paste(Image.fromarray(pixels), (0, 0))
    small = ImageOps.mirror(Image.fromarray(pixels)).resize((side * 3 // 4, side * 3 // 4), Image.Resampling.LANCZOS)
    picture.paste(small, (side + side // 8, side // 8))
    data = plants.encode(picture)
    url = "http://news.test/portraits/crew.jpg"
    site.put(url, data)
    site.show(url, "the crew")
    left, upper, right, lower = FACE_IN_TILE
    mirrored = (side - right, upper, side - left, lower)
    shrunk = tuple(round(at * 0.75) + (side + side // 8, side // 8)[k % 2] for k, at in enumerate(mirrored))
    site.case("faces", "screen", KEEP, url, data, face_boxes=(FACE_IN_TILE, shrunk))


def unusual_encodings(site: Site, tiles: list[Tile]) -> None:
    """Good pictures that a careless decoder loses, turns or takes for something else."""
    forms: list[tuple[str, Callable[[Image.Image], bytes], str, str]] = [
        ("misnamed", lambda picture: plants.encode(picture, "png"), "jpg", "image/jpeg"),
        ("misnamed", lambda picture: plants.encode(picture, "webp"), "png", "image/png"),
        ("oriented", plants.turned, "jpg", "image/jpeg"),
        ("cmyk", plants.cmyk, "jpg", "image/jpeg"),
        ("grey16", plants.grey16, "png", "image/png"),
    ]
    for tile, (kind, encode, suffix, content_type) in zip(tiles, forms, strict=True):
        data = encode(Image.fromarray(tile.pixels))
        url = url_of(f"{tile.name}-{kind}", suffix, folder="scans")
        site.tile(tile, "web", url, data, headers={"Content-Type": content_type})
        site.show(url, alt_of(tile))
        site.case(kind, "screen", KEEP, url, data)


def unusual_pages(site: Site, tiles: list[Tile]) -> None:
    """Pages whose body or charset needs care; each picture is shown there and nowhere else."""
    chunked, zipped, latin, query, *_ = tiles
    for tile, transfer in ((chunked, "chunked"), (zipped, "gzip")):
        url = f"http://museum.test/photos/{tile.name}.jpg"
        data = plants.encode(tile.pixels)
        site.tile(tile, "web", url, data)
        site.page("museum.test", f"Sent {transfer}", [Shown(url, alt_of(tile), "root_relative")], transfer=transfer)
        site.case(f"{transfer}_page", "extract_links", KEEP, url, data)
    url, data = "http://museum.test/photos/" + quote("café.jpg"), plants.encode(latin.pixels)
    site.tile(latin, "web", url, data)
    site.page(
        "museum.test", "Musée: café et thé", [Shown(url, "café à la crème", "raw_relative")], charset="iso-8859-1"
    )
    site.case("latin_page", "extract_links", KEEP, url, data)
    url, data = "http://shop.test/picture?id=7&size=full", plants.encode(query.pixels)
    site.tile(query, "web", url, data)
    site.page("shop.test", "By number", [Shown(url, alt_of(query), "root_relative")])
    site.case("query_url", "download", KEEP, url, data)


def refused(site: Site, tiles: list[Tile]) -> None:
    """Pictures whose owners said no, each in its own way; none of their bytes may reach the store."""
    hand = iter(tiles)

    def plant(
        kind: str, stage: str, reason: Reason, host: str, folder: str, count: int, **behaviour: object
    ) -> list[Shown]:
        shown = []
        for _ in range(count):
            tile = next(hand)
            url = f"http://{host}/{folder}/{tile.name}.jpg"
            data = plants.encode(tile.pixels)
            site.tile(tile, "refused", url, data, **behaviour)
            site.case(kind, stage, reason, url, data)
            shown.append(Shown(url, alt_of(tile)))
        return shown

    blocked = ("blocked_domain", "extract_links", Reason.BLOCKED_DOMAIN)
    site.page("blocked.test", "On the list", plant(*blocked, "blocked.test", "photos", 3))
    site.page("garden.test", "Borrowed", plant(*blocked, "images.blocked.test", "photos", 2))

    opted = ("page_opted_out", "extract_links", Reason.PAGE_OPTED_OUT)
    for robots in ("noai", "index, noimageai", "NOAI, NOIMAGEAI"):
        site.page("optout.test", f"Says {robots}", plant(*opted, "optout.test", "photos", 2), robots=robots)
    site.page(
        "optout.test", "Says so in a header", plant(*opted, "optout.test", "photos", 2),
        headers={"X-Robots-Tag": "noai"},
    )  # fmt: skip

    header = ("header_opted_out", "download", Reason.HEADER_OPTED_OUT, "header.test")
    for tag in ("noai", "noimageai"):
        site.page("header.test", f"Pictures say {tag}", plant(*header, tag, 2, headers={"X-Robots-Tag": tag}))

    site.put(
        "http://private.test/robots.txt",
        b"User-agent: somebody-else\nDisallow: /\n\nUser-agent: *\nDisallow: /private/\nAllow: /\n",
    )
    disallowed = ("robots_disallowed", "download", Reason.ROBOTS_DISALLOWED)
    site.page("private.test", "A private folder", plant(*disallowed, "private.test", "private", 3))
    site.behaviours["http://broken-robots.test/robots.txt"] = {"status": 500}
    unreachable = ("robots_unreachable", "download", Reason.ROBOTS_UNREACHABLE)
    site.page("broken-robots.test", "Nobody knows", plant(*unreachable, "broken-robots.test", "photos", 3))


def allowed_beside_refused(site: Site, tiles: list[Tile]) -> None:
    """A picture outside the disallowed folder, and one behind a good redirect: both stay."""
    beside, behind, *_ = tiles
    url, data = "http://private.test/open/" + beside.name + ".jpg", plants.encode(beside.pixels)
    site.tile(beside, "web", url, data)
    site.page("private.test", "An open folder", [Shown(url, alt_of(beside))])
    site.case("robots_allowed", "download", KEEP, url, data)
    target, data = f"http://cdn.test/moved/{behind.name}.jpg", plants.encode(behind.pixels)
    site.tile(behind, "web", target, data)
    url = "http://redirect.test/good.jpg"
    _redirect(site, url, target)
    site.page("travel.test", "Moved", [Shown(url, alt_of(behind))])
    site.case("good_redirect", "download", KEEP, url, data)


def bad_redirects(site: Site) -> None:
    """Redirects into private networks, in circles and without end, and private addresses written plainly."""
    private = {
        "to-loopback": "http://127.0.0.1:1/secret.jpg",
        "to-metadata": "http://169.254.169.254/latest/meta-data/",
        "to-intranet": "http://10.0.0.1/camera.jpg",
        "to-loopback-six": "http://[::1]:1/secret.jpg",
        "two-hops": "http://redirect.test/to-intranet.jpg",
    }
    urls = [f"http://redirect.test/{name}.jpg" for name in private]
    for url, target in zip(urls, private.values(), strict=True):
        _redirect(site, url, target)
        site.case("redirect_private", "download", Reason.PRIVATE_ADDRESS, url)
    direct = ["http://127.0.0.1:1/direct.jpg", "http://192.168.0.1/router.jpg", "http://169.254.169.254/latest/me.jpg"]
    for url in direct:
        site.case("direct_private", "download", Reason.PRIVATE_ADDRESS, url)
    _redirect(site, "http://redirect.test/loop-a.jpg", "http://redirect.test/loop-b.jpg")
    _redirect(site, "http://redirect.test/loop-b.jpg", "http://redirect.test/loop-a.jpg")
    for step in range(60):
        _redirect(site, f"http://redirect.test/step/{step}.jpg", f"http://redirect.test/step/{step + 1}.jpg")
    circles = ["http://redirect.test/loop-a.jpg", "http://redirect.test/step/0.jpg"]
    for url in circles:
        site.case("redirect_loop", "download", Reason.TOO_MANY_REDIRECTS, url)
    local = "http://redirect.test/to-file.jpg"
    _redirect(site, local, "file:///etc/passwd")
    site.case(
        "redirect_file", "download", Reason.HTTP_ERROR, local, also=(Reason.PRIVATE_ADDRESS, Reason.MALFORMED_URL)
    )
    site.page("redirect.test", "This way", [Shown(url, "this way") for url in (*urls, *circles, local)])
    site.page("redirect.test", "No way", [Shown(url, "no way") for url in direct])


def faults(site: Site, tile: Tile) -> None:
    """Servers that do not keep their word."""
    data = plants.encode(tile.pixels)
    for name, behaviour, reason in (
        ("status-410", {"status": 410}, Reason.HTTP_ERROR),
        ("status-403", {"status": 403}, Reason.HTTP_ERROR),
        ("status-500", {"status": 500}, Reason.HTTP_ERROR),
        ("hang-up", {"fault": "hang_up"}, Reason.CONNECTION_FAILED),
    ):
        url = f"http://errors.test/{name}.jpg"
        site.behaviours[url] = behaviour
        site.case(name.replace("-", "_"), "download", reason, url)
    site.case("not_found", "download", Reason.HTTP_ERROR, "http://errors.test/not-there.jpg")
    for name, reason in (("short", Reason.INCOMPLETE_BODY), ("stall", Reason.TIMED_OUT)):
        url = f"http://errors.test/{name}.jpg"
        site.put(url, data, fault=name)
        site.case(f"{name}_body", "download", reason, url)
    endless = "http://endless.test/stream.jpg"
    site.behaviours[endless] = {"fault": "endless"}
    site.case("endless_body", "download", Reason.TOO_MANY_BYTES, endless, also=(Reason.TIMED_OUT,))
    urls = [case.url for case in site.cases if "//errors.test/" in case.url] + [endless]
    site.page("errors.test", "Under construction", [Shown(url, "under construction") for url in urls])


def odd_files(site: Site, tiles: list[Tile], seed: int) -> None:
    """Files that are no usable picture, though their URLs say so."""
    hand = iter(tiles)
    first = Image.fromarray(next(hand).pixels)
    masked = plants.encode(first)[:2] + plants.noise(4000, seed + 3)
    files: list[tuple[str, str, bytes, Reason, str | None, tuple[str, ...]]] = [
        ("corrupt", "noise-1.jpg", plants.noise(6000, seed + 1), Reason.NOT_AN_IMAGE, None, ()),
        ("corrupt", "noise-2.png", plants.noise(400, seed + 2), Reason.NOT_AN_IMAGE, None, ()),
        ("corrupt", "noise-3.jpg", masked, Reason.NOT_AN_IMAGE, None, (Reason.TRUNCATED,)),
        ("bomb", "bomb.png", plants.bomb(), Reason.TOO_MANY_PIXELS, None, ()),
        ("svg", "drawing.svg", plants.svg(), Reason.UNSUPPORTED_FORMAT, None, ()),
        ("svg", "drawing.jpg", plants.svg() + b"\n", Reason.UNSUPPORTED_FORMAT, "image/svg+xml", ()),
        ("html_as_image", "moved.jpg", plants.error_page(), Reason.NOT_AN_IMAGE, "text/html", ()),
        ("html_as_image", "sorry.jpg", plants.error_page() + b"\n", Reason.NOT_AN_IMAGE, "image/jpeg", ()),
        ("icon", "pixel.gif", plants.tracking_pixel(), Reason.TOO_SMALL, None, ()),
        ("blank", "grey.jpg", plants.solid(), Reason.BLANK, None, ()),
        ("blank", "no-image.png", plants.placeholder(), Reason.BLANK, None, ()),
        ("animation", "turning.gif", plants.animation(first, "GIF"), Reason.ANIMATED, None, ()),
        ("animation", "turning.webp", plants.animation(first, "WEBP"), Reason.ANIMATED, None, ()),
        ("banner", "banner.jpg", plants.banner(first), Reason.BAD_ASPECT, None, ()),
        ("banner", "skyscraper.jpg", plants.banner(first, upright=True), Reason.BAD_ASPECT, None, ()),
    ]  # fmt: skip
    for side in (16, 24, 32):
        icon = plants.icon(Image.fromarray(next(hand).pixels), side)
        files.append(("icon", f"icon-{side}.png", icon, Reason.TOO_SMALL, None, ()))
    for number, form in enumerate(("jpg", "jpg", "jpg", "png")):
        cut = plants.truncated(plants.encode(next(hand).pixels, form))
        files.append(("truncated", f"half-{number}.{form}", cut, Reason.TRUNCATED, None, ()))
    for kind, name, data, reason, content_type, also in files:
        behaviour = {"headers": {"Content-Type": content_type}} if content_type else {}
        url = f"http://attic.test/odd/{name}"
        site.put(url, data, **behaviour)
        site.case(kind, "screen", reason, url, data, also=also)
    empty = "http://attic.test/odd/nothing.jpg"
    site.put(empty, b"")
    site.case("empty", "index", Reason.EMPTY_FILE, empty, also=(Reason.INCOMPLETE_BODY,))
    urls = [case.url for case in site.cases if "//attic.test/" in case.url]
    for start in range(0, len(urls), 6):
        site.page("attic.test", "The attic", [Shown(url, "an old thing") for url in urls[start : start + 6]])


def bad_links(site: Site) -> None:
    """Links that lead to no request at all; those inside the page get their cases when it is written."""
    data_uris = [f"data:image/gif;base64,R0lGODlhAQABAIAAAAUEBA{k}AACwAAAAAAQABAAACAkQBADs=" for k in "ABC"]
    malformed = ["http://[broken/photo.jpg", "http://garden.test:99999/photo.jpg"]
    for url in malformed:
        site.case("malformed_url", "extract_links", Reason.MALFORMED_URL, url)
    site.page("garden.test", "Inline", [Shown(url, "inline") for url in data_uris])
    site.page("garden.test", "Mistyped", [Shown(url, "mistyped") for url in malformed])


def _redirect(site: Site, url: str, target: str) -> None:
    site.behaviours[url] = {"status": 302, "headers": {"Location": target}}
