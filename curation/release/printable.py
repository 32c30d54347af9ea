"""Text from the web, made harmless for a terminal."""


def printable(text: str) -> str:
    """The text with backslashes, control, format and bidirectional characters written as escapes."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)
