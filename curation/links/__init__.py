"""From page files and URL lists to image links: pure functions on bytes and strings."""
