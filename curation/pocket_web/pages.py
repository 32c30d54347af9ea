"""HTML as the web writes it: the same picture shown in a dozen ways."""

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from urllib.parse import urlsplit

PLACEHOLDER = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
HOSTILE_TEXT = ("\"><script>alert('alt')</script>", "<img src=x onerror=alert(1)>", '=HYPERLINK("http://x")')


@dataclass(frozen=True)
class Shown:
    """A picture on a page: where it lies, what its alt text says, and how the markup points at it."""

    url: str
    alt: str
    markup: str = "absolute"


@dataclass(frozen=True)
class Page:
    """A page of the crawl.

    Attributes:
        url: its address; ``base`` replaces it as the base of relative links.
        robots: content of a robots meta element, e.g. ``noai``.
        headers: extra response headers.
        transfer: as in :class:`curation.pocket_web.warc.Exchange`.
        canonical: whether the page says its own address, for pages that are kept as plain files.
    """

    url: str
    title: str
    pictures: tuple[Shown, ...]
    base: str | None = None
    robots: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    charset: str = "utf-8"
    transfer: str = "plain"
    canonical: bool = False


def render(page: Page) -> bytes:
    """The page in its own charset."""
    head = [f'<meta charset="{page.charset}">', f"<title>{escape(page.title)}</title>"]
    if page.base is not None:
        head.append(f'<base href="{page.base}">')
    if page.canonical:
        head.append(f'<link rel="canonical" href="{page.url}">')
    if page.robots is not None:
        head.append(f'<meta name="robots" content="{page.robots}">')
    body = [f"<h1>{escape(page.title)}</h1>"]
    for picture in page.pictures:
        into = head if picture.markup == "og_image" else body
        into.append(MARKUP[picture.markup](picture))
    text = "<!doctype html>\n<html><head>\n{}\n</head><body>\n{}\n</body></html>\n"
    return text.format("\n".join(head), "\n".join(body)).encode(page.charset)


def smaller_candidate(url: str) -> str:
    """The URL of the thumbnail that ``srcset`` markup offers beside ``url``."""
    head, _, name = url.rpartition("/")
    return f"{head}/small/{name}"


def _img(source: str, alt: str, extra: str = "") -> str:
    return f'<p><img src="{escape(source)}" alt="{escape(alt)}"{extra}></p>'


def _absolute(shown: Shown) -> str:
    return _img(shown.url, shown.alt)


def _root_relative(shown: Shown) -> str:
    return _img(_path(shown.url), shown.alt, ' width="128" height="128"')


def _relative(shown: Shown) -> str:
    """From ``/pages/x.html``, or from a base one folder deep."""
    return _img(".." + _path(shown.url), shown.alt)


def _raw_relative(shown: Shown) -> str:
    """A path as people type it, not percent-encoded."""
    return _img(_path(shown.url).replace("%C3%A9", "é"), shown.alt)


def _protocol_relative(shown: Shown) -> str:
    return _img(shown.url.removeprefix("http:"), shown.alt, ' loading="lazy"')


def _dotted(shown: Shown) -> str:
    return _img("/old/./archive/../.." + _path(shown.url), shown.alt)


def _shouted(shown: Shown) -> str:
    """Another spelling of the same URL: case, default port, fragment, white space."""
    return f"<IMG ALT='{escape(shown.alt)}' SRC='  HTTP://{_host(shown.url).upper()}:80{_path(shown.url)}#top '>"


def _srcset(shown: Shown) -> str:
    return _img(shown.url, shown.alt, f' srcset="{smaller_candidate(shown.url)} 64w, {shown.url} 128w" sizes="100vw"')


def _lazy(shown: Shown) -> str:
    return _img(PLACEHOLDER, shown.alt, f' class="lazy" data-src="{shown.url}"')


def _picture(shown: Shown) -> str:
    small = _path(smaller_candidate(shown.url))
    sources = f'<source media="(max-width: 400px)" srcset="{small} 64w, {_path(shown.url)} 128w">'
    return f"<picture>{sources}{_img(shown.url, shown.alt)}</picture>"


def _noscript(shown: Shown) -> str:
    return f"<noscript>{_img(shown.url, shown.alt)}</noscript>"


def _og_image(shown: Shown) -> str:
    return f'<meta property="og:image" content="{shown.url}">'


MARKUP: dict[str, Callable[[Shown], str]] = {
    "absolute": _absolute,
    "root_relative": _root_relative,
    "relative": _relative,
    "raw_relative": _raw_relative,
    "protocol_relative": _protocol_relative,
    "dotted": _dotted,
    "shouted": _shouted,
    "srcset": _srcset,
    "lazy": _lazy,
    "picture": _picture,
    "noscript": _noscript,
    "og_image": _og_image,
}

SAME_HOST = ("root_relative", "relative", "dotted", "picture")
ANY_HOST = ("absolute", "protocol_relative", "shouted", "srcset", "lazy", "noscript", "og_image", "absolute")


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _path(url: str) -> str:
    parts = urlsplit(url)
    return parts.path + (f"?{parts.query}" if parts.query else "")
