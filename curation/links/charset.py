"""Text of an HTML page from its bytes: byte-order mark, then header, then ``<meta>``, then a guess."""

import codecs
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


def decode(html: bytes, header_charset: str | None) -> str:
    """Decode a page; bytes that do not fit become U+FFFD, so it never fails.

    Args:
        html: the page as it was sent.
        header_charset: the charset parameter of its Content-Type, if any.
    """
    for mark, name in _BOMS:
        if html.startswith(mark):
            return html[len(mark) :].decode(name, "replace")
    declared = _codec(header_charset) or _codec(_declared(html))
    if declared:
        return html.decode(declared, "replace")
    try:
        return html.decode("utf-8")
    except UnicodeDecodeError:
        return html.decode("cp1252", "replace")


def _declared(html: bytes) -> str | None:
    match = _META.search(html, 0, _SNIFFED_BYTES)
    name = match[1].decode("ascii").lower() if match else None
    # A page whose <meta> could be read as ASCII is not UTF-16, whatever it claims.
    return "utf-8" if name and name.startswith("utf-16") else name


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
