"""HTML pages in one encoding: byte-order mark, then header, then ``<meta>``, then a guess."""

import codecs
import functools
import re

_META = re.compile(rb"""<meta[^>]{0,400}?charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{1,40})""", re.IGNORECASE)
_SNIFFED_BYTES = 4096
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))

_SURROGATE = re.compile("[\ud800-\udfff]")

# Python decodes these, some to lone surrogates, some not at all; browsers know none of them.
_NOT_OF_THE_WEB = {"idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7", "undefined"}

# What browsers mean by these labels (WHATWG Encoding Standard) where Python means something narrower.
_BROWSER_NAMES = {
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "latin1": "cp1252",
    "latin-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "x-gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "iso-8859-9": "cp1254",
    "tis-620": "cp874",
    "x-user-defined": "cp1252",
    "utf8": "utf-8",
}


def as_utf8(html: bytes, header_charset: str | None) -> bytes:
    """The page in UTF-8; bytes that do not fit its charset become U+FFFD, so it never fails.

    A page that is UTF-8 already comes back as it is, with what does not fit left to whoever reads it.

    Args:
        html: the page as it was sent.
        header_charset: the charset parameter of its Content-Type, if any.
    """
    for mark, name in _BOMS:
        if html.startswith(mark):
            return _recoded(html[len(mark) :], name)
    declared = _codec(header_charset) or _codec(_declared(html))
    return _recoded(html, declared or ("utf-8" if _is_utf8(html) else "cp1252"))


def _recoded(html: bytes, codec: str) -> bytes:
    return html if codec == "utf-8" else html.decode(codec, "replace").encode("utf-8", "replace")


def _is_utf8(html: bytes) -> bool:
    try:
        html.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _declared(html: bytes) -> str | None:
    match = _META.search(html, 0, _SNIFFED_BYTES)
    name = match[1].decode("ascii").lower() if match else None
    # A page whose <meta> could be read as ASCII is not UTF-16, whatever it claims.
    return "utf-8" if name and name.startswith("utf-16") else name


@functools.lru_cache(maxsize=1 << 10)
def _codec(label: str | None) -> str | None:
    if not label:
        return None
    name = label.strip().strip("\"'").lower()
    try:
        info = codecs.lookup(_BROWSER_NAMES.get(name, name))
    except (LookupError, ValueError):
        return None
    return info.name if _is_text(info) else None


def without_surrogates(text: str) -> str:
    """Text that UTF-8 can write: halves of surrogate pairs become U+FFFD."""
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", text)


def _is_text(info: codecs.CodecInfo) -> bool:
    """False for Python's own codecs that are no character sets of the web, such as zip or rot13."""
    return getattr(info, "_is_text_encoding", True) and info.name.replace("_", "-") not in _NOT_OF_THE_WEB
