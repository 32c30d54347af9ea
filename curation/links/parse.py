"""The tree of an HTML page, from its bytes."""

from selectolax.lexbor import LexborDocumentOptions, LexborHTMLParser

from curation.links.charset import as_utf8

# Events keep <selectedcontent> up to date, at a cost quadratic in the options of a <select>: seconds for 10,000.
_OPTIONS = LexborDocumentOptions.WO_EVENTS


def parsed(html: bytes, header_charset: str | None) -> LexborHTMLParser:
    """Parse a page as a browser without scripts does, so that what is in ``<noscript>`` is part of the tree.

    Args:
        html: the page as it was sent.
        header_charset: the charset parameter of its Content-Type, if any.
    """
    return LexborHTMLParser(as_utf8(html, header_charset), options=_OPTIONS)
