"""URLs in one spelling, and their registrable domains."""

import functools
import ipaddress
import re
from urllib.parse import urljoin, urlsplit

import idna
import tldextract

MAX_URL_CHARS = 8000  # what RFC 9110, section 4.1 asks every recipient to support

_DEFAULT_PORTS = {"http": 80, "https": 443}
_NO_BASE = frozenset({"about", "data", "javascript"})
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})?|[^!#$&'()*+,/:;=?@\[\]A-Za-z0-9._~-]")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

# Most URLs have their one spelling already, and need no more than to be recognised.
_ESCAPED = "%(?:[0189A-F][0-9A-F]|2[0-9A-CF]|3[A-F]|40|5[B-E]|60|7[B-DF])"  # canonical, of no unreserved character
_PATH = rf"(?:[!$&'()*+,/=@A-Za-z0-9._~-]++|{_ESCAPED})*+"
_QUERY = rf"(?:[!$&'()*+,/:;=?@A-Za-z0-9._~-]++|{_ESCAPED})++"
_SPELT = re.compile(rf"((https?:)//([a-z0-9.-]++)/{_PATH})(?:\?{_QUERY})?(?:#[!-~]*)?")
_SPELT_PATH = re.compile(rf"(?=[^.?#]){_PATH}(?:\?{_QUERY})?(?:#[!-~]*)?")
_SPELT_HOST = re.compile(r"https?://([a-z0-9._-]++)(?::[0-9]++)?/")


def normalise(url: str) -> str:
    """One spelling for equal http(s) URLs (RFC 3986, section 6.2.2, and IDNA 2008 for the host).

    Lower-cases scheme and host, drops the default port and the fragment, resolves dot segments, and writes
    every percent-escape in the one canonical way. Applying it twice changes nothing.

    Raises:
        ValueError: not http(s), no or malformed host, credentials, a bad port, control characters, lone surrogates, too
            long.
    """
    if _spelt(url):
        return url.partition("#")[0]
    text = url.strip(" ")
    if len(text) > MAX_URL_CHARS:
        raise ValueError(f"URL longer than {MAX_URL_CHARS} characters")
    if _CONTROL.search(text.replace(" ", "")):
        raise ValueError("URL with control characters")
    if _SURROGATE.search(text):
        raise ValueError("URL with half a surrogate pair")
    parts = urlsplit(text.replace("\\", "/") if "\\" in text.partition("?")[0] else text)
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"scheme {parts.scheme or 'missing'!r} is not http or https")
    if parts.username is not None or parts.password is not None:
        raise ValueError("URL with credentials")
    port = parts.port  # raises ValueError where it is not a port
    authority = normalise_host(parts.hostname or "")
    if port is not None and port != _DEFAULT_PORTS[parts.scheme]:
        if port == 0:
            raise ValueError("port 0")
        authority = f"{authority}:{port}"
    path = _without_dot_segments(_escape(parts.path)) or "/"
    query = f"?{_escape(parts.query)}" if parts.query else ""
    normal = f"{parts.scheme}://{authority}{path}{query}"
    if len(normal) > MAX_URL_CHARS:
        raise ValueError(f"URL longer than {MAX_URL_CHARS} characters")
    return normal


class Base:
    """Resolves the references of one page, each to its one spelling.

    Args:
        url: the page's address or its ``<base>``; where it is not http(s), only absolute references resolve.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._scheme = self._root = self._folder = ""
        if spelt := _spelt(url):
            self._scheme = spelt[2]
            self._root = f"{spelt[2]}//{spelt[3]}"
            self._folder = spelt[1].rpartition("/")[0] + "/"

    def resolve(self, reference: str) -> str:
        """The URL that a reference means (RFC 3986, section 5), as :func:`normalise` spells it.

        Raises:
            ValueError: as :func:`normalise`.
        """
        absolute = self._scheme + reference if reference.startswith("//") else reference
        if _spelt(absolute):
            return absolute.partition("#")[0]
        if self._root and _is_spelt_path(reference):
            joined = (self._root if reference[0] == "/" else self._folder) + reference
            if len(joined) <= MAX_URL_CHARS:
                return joined.partition("#")[0]
        return normalise(self.join(reference))

    def rebased(self, reference: str) -> "Base":
        """The base that a ``<base>`` element makes; this one where browsers overlook that element (HTML, 4.2.3)."""
        url = self.join(reference)
        try:
            parts = urlsplit(url)
            if parts.scheme in _DEFAULT_PORTS:
                _ = parts.port  # raises ValueError where it is not a port
                normalise_host(parts.hostname or "")
        except ValueError:
            return self
        return self if parts.scheme in _NO_BASE else Base(url)

    def join(self, reference: str) -> str:
        """The URL that a reference means; the reference itself where it has no meaning."""
        try:
            return urljoin(self._url, reference)
        except ValueError:
            return reference


def _spelt(url: str) -> re.Match[str] | None:
    """A match whose groups are all before the query, the scheme, and the host, if the URL has its one spelling."""
    match = _SPELT.fullmatch(url)
    if match is None or url.find("//", 8) >= 0 or "/." in url or len(url) > MAX_URL_CHARS:
        return None
    return match if _is_spelt_host(match[3]) else None


def _is_spelt_path(reference: str) -> bool:
    """Whether a reference is a path that stays as it is when it is put behind a folder."""
    return bool(_SPELT_PATH.fullmatch(reference)) and "//" not in reference and "/." not in reference


@functools.lru_cache(maxsize=1 << 16)
def _is_spelt_host(host: str) -> bool:
    try:
        return normalise_host(host) == host
    except ValueError:
        return False


def normalise_host(host: str) -> str:
    """A host name in lower-case ASCII (IDNA, UTS 46), or an IP literal in its canonical spelling.

    Raises:
        ValueError: empty, not a name, or a number that only some resolvers read as an address.
    """
    name = host.lower().removesuffix(".")
    if not name:
        raise ValueError("URL without a host")
    if ":" in name:
        if "%" in name:
            raise ValueError("IPv6 address with a zone")
        return f"[{ipaddress.IPv6Address(name).compressed}]"
    if not name.isascii() or "%" in name:
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError("host is not a valid internationalised name") from error
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise ValueError("host is not a valid name")
    if _NUMERIC.fullmatch(name.rpartition(".")[2]):
        return str(ipaddress.IPv4Address(name))  # refuses 0x7f.1 and 2130706433, which resolvers accept
    return name


def registrable_domain(url: str) -> str:
    """The domain somebody registered: "example.co.uk" of "https://a.b.example.co.uk/"; an IP address is itself.

    The public-suffix list is the one bundled with tldextract, with its private part: whoever has ``alice.github.io``
    or a bucket's host answers for it, as for ``alice.example``. Under a suffix that is not listed, such as ``.test``,
    the last two labels count. A host that is itself a suffix is returned whole.
    """
    return _registrable_domain_of_host(_host(url))


def _host(url: str) -> str:
    match = _SPELT_HOST.match(url)
    return match[1] if match else urlsplit(url).hostname or ""


@functools.lru_cache(maxsize=1 << 16)
def _registrable_domain_of_host(host: str) -> str:
    if ":" in host or _NUMERIC.fullmatch(host.rpartition(".")[2]):
        return host
    found = _suffixes().extract_str(host)
    if found.suffix:
        return found.top_domain_under_public_suffix or host
    return ".".join(host.split(".")[-2:])


@functools.lru_cache(maxsize=1)
def _suffixes() -> tldextract.TLDExtract:
    return tldextract.TLDExtract(
        suffix_list_urls=(), cache_dir=None, fallback_to_snapshot=True, include_psl_private_domains=True
    )


def _escape(text: str) -> str:
    def canonical(match: re.Match[str]) -> str:
        if match[1]:
            character = chr(int(match[1], 16))
            return character if character in _UNRESERVED else match[0].upper()
        return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "replace"))

    return _ESCAPE.sub(canonical, text)


def _without_dot_segments(path: str) -> str:
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
