import socket
from urllib.parse import urljoin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.links.urls import Base, normalise, registrable_domain


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTP://Example.ORG", "http://example.org/"),
        ("http://example.org:80/a#part", "http://example.org/a"),
        ("https://example.org:443/", "https://example.org/"),
        ("http://example.org:443/", "http://example.org:443/"),
        ("http://example.org./a", "http://example.org/a"),
        ("http://example.org?x", "http://example.org/?x"),
        ("http://example.org/a/./b/../c", "http://example.org/a/c"),
        ("http://example.org/../../a/..", "http://example.org/"),
        ("http://example.org/a/%2e%2E/b", "http://example.org/b"),
        ("http://example.org/a//b/", "http://example.org/a//b/"),
        ("http://example.org/%7ejoe/%c3%a9", "http://example.org/~joe/%C3%A9"),
        ("http://example.org/é è.jpg", "http://example.org/%C3%A9%20%C3%A8.jpg"),
        ("http://example.org/100%.jpg", "http://example.org/100%25.jpg"),
        ("http://example.org/a%2Fb?c=%2f", "http://example.org/a%2Fb?c=%2F"),
        ("http://example.org/?a=1&b=x y|z", "http://example.org/?a=1&b=x%20y%7Cz"),
        ("http://example.org\\a\\b.jpg", "http://example.org/a/b.jpg"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://straße.de/", "http://xn--strae-oqa.de/"),
        ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah/"),
        ("http://under_score.example.org/", "http://under_score.example.org/"),
        ("http://192.0.2.1/", "http://192.0.2.1/"),
        ("http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("  http://example.org/ ", "http://example.org/"),
    ],
)
def test_normalise(url, normal):
    assert normalise(url) == normal


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org/a",
        "/a.jpg",
        "ftp://example.org/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///a",
        "http://:80/",
        "http://example.org:99999/",
        "http://example.org:0/",
        "http://example.org:port/",
        "http://user:secret@example.org/",
        "http://example.org/\r\nHost: x",
        "http://example.org/\0",
        "http://exa mple.org/",
        "http://-a.org/",
        "http://a..org/",
        "http://*.org/",
        "http://%65xample.org/",
        "http://" + "a" * 64 + ".org/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://127.1/",
        "http://1.2.3.4.5/",
        "http://010.0.0.1/",
        "http://[::1/",
        "http://[fe80::1%25eth0]/",
        "http://example.org/" + "a" * 9000,
        "http://example.org/" + "é" * 3000,
    ],
)
def test_malformed(url):
    with pytest.raises(ValueError):
        normalise(url)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_normalise_is_idempotent_and_ascii(rest):
    try:
        once = normalise(f"http://example.org/{rest}")
    except ValueError:
        return
    assert once == normalise(once)
    assert once.isascii()
    assert once.isprintable()
    assert " " not in once


BASES = ["http://h.test/a/b/c?d/e", "https://h.test", "http://H.test:80/a/../b", "http://h.test/a//b;p/c", "file:x", ""]
PARTS_OF_PATHS = [
    "/",
    "//",
    ".",
    "..",
    ";",
    "%",
    "%20",
    "%2e",
    "%c3%a9",
    "%E4",
    "é",
    "a",
    "b.jpg",
    "=",
    "[",
    "|",
    "\t",
    "\\",
]
PARTS_OF_URLS = [*PARTS_OF_PATHS, "?", "#", ":", "http:", "HTTPS:", "h.test", "1.2.3.4", ":80", "@", "&"]


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except ValueError as error:
        return type(error)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(BASES), st.lists(st.sampled_from(PARTS_OF_URLS), max_size=7).map("".join), st.booleans())
def test_references_resolve_as_by_the_standard_library(base, reference, is_absolute):
    reference = f"http://h.test/{reference}" if is_absolute else reference

    def by_the_library():
        try:
            joined = urljoin(base, reference)
        except ValueError:
            joined = reference
        return normalise(joined + ("é" if "#" in joined else "#é"))  # a fragment that no short cut knows

    assert outcome(Base(base).resolve, reference) == outcome(by_the_library)


@given(st.text("%0129aAfFeE./é?#&=+ \\", max_size=30))
def test_normalise_is_idempotent_where_it_is_hard(rest):
    once = normalise(f"http://example.org/{rest}")
    assert once == normalise(once)


@pytest.mark.parametrize(
    ("url", "domain"),
    [
        ("https://a.b.example.co.uk/x", "example.co.uk"),
        ("https://example.org:8080/", "example.org"),
        ("https://garden.test/", "garden.test"),
        ("https://a.garden.test/", "garden.test"),
        ("https://localhost/", "localhost"),
        ("https://co.uk/", "co.uk"),
        ("https://192.0.2.1/", "192.0.2.1"),
        ("https://[2001:db8::1]/", "2001:db8::1"),
        ("https://pages.someone.github.io/", "someone.github.io"),
        ("https://github.io/", "github.io"),
        ("https://someone.blogspot.com/", "someone.blogspot.com"),
        ("https://d1.cloudfront.net/a.jpg", "d1.cloudfront.net"),
        ("https://bucket.s3.amazonaws.com/a.jpg", "bucket.s3.amazonaws.com"),
        ("https://s3.amazonaws.com/bucket/a.jpg", "s3.amazonaws.com"),
    ],
)
def test_registrable_domain(url, domain, monkeypatch):
    def no_network(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    assert registrable_domain(url) == domain
