"""Small pictures as ``data:`` URIs: re-encoded, so that nothing of a hostile file reaches the page."""

import base64
import io
import warnings

from PIL import Image

SIDE = 128  # pixels of the longer side
MAX_PIXELS = 50_000_000  # larger pictures are not decoded for the sake of a thumbnail

_PLACEHOLDER = (
    '<svg xmlns="http://www.w3.org/2000/svg" width="128" height="128" viewBox="0 0 128 128">'
    '<rect width="128" height="128" fill="#eef0f2"/>'
    '<rect x="28" y="30" width="72" height="56" rx="4" fill="none" stroke="#9aa3ad" stroke-width="3"/>'
    '<path d="M28 76l22-22 18 18 12-10 20 18" fill="none" stroke="#9aa3ad" stroke-width="3"/>'
    '<path d="M22 100L106 18" stroke="#c0392b" stroke-width="4"/>'
    '<text x="64" y="112" font-family="sans-serif" font-size="12" text-anchor="middle" fill="#5b6570">{}</text></svg>'
)


def thumbnail(data: bytes | None) -> str:
    """A JPEG of at most ``SIDE`` pixels, or a drawn placeholder that says why there is none.

    Args:
        data: the encoded image; None where its bytes cannot be had.
    """
    if data is None:
        return placeholder("bytes not at hand")
    try:
        return _jpeg(data)
    except _TooLargeError:
        return placeholder("too large to draw")
    except Exception:  # a decoder may fail in any way on a hostile file; here each means the same
        return placeholder("does not decode")


def placeholder(text: str) -> str:
    """A drawn picture with a few words; ``text`` is ours, never the web's."""
    return "data:image/svg+xml;base64," + base64.b64encode(_PLACEHOLDER.format(text).encode()).decode()


class _TooLargeError(Exception):
    pass


def _jpeg(data: bytes) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _TooLargeError
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = image.convert("RGBA" if "transparency" in image.info or image.mode == "RGBA" else "RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    if small.mode == "RGBA":
        white = Image.new("RGBA", small.size, "white")
        small = Image.alpha_composite(white, small).convert("RGB")
    out = io.BytesIO()
    small.save(out, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
