import ipaddress
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation.fetch import addresses as addresses_module
from curation.fetch.addresses import is_public
from curation.fetch.guard import Client
from curation.fetch.outcome import Fetched, FetchError
from curation.schema import Reason
from tests.curation.fetch.hostile import GOOD

URL = "http://garden.test"


def anything(_):
    """A permit, or a turn that is there."""


def fetch(url, options) -> Fetched:
    with Client(options) as client:
        return client.fetch(url, anything, anything)


def failure(url, options) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetch(url, options)
    return caught.value


@pytest.mark.parametrize(
    ("path", "reason", "message"),
    [
        ("/nothing-here", Reason.HTTP_ERROR, "status 404"),
        ("/status?503", Reason.HTTP_ERROR, "status 503"),
        ("/status?304", Reason.HTTP_ERROR, "status 304"),
        ("/loop", Reason.TOO_MANY_REDIRECTS, "more than 3 redirects"),
        ("/redirect?http://127.0.0.1/", Reason.PRIVATE_ADDRESS, "127.0.0.1 is at"),
        ("/redirect?http://169.254.169.254/latest/meta-data", Reason.PRIVATE_ADDRESS, "169.254.169.254"),
        ("/redirect?http://10.0.0.1/", Reason.PRIVATE_ADDRESS, "10.0.0.1"),
        ("/redirect?http://[::ffff:127.0.0.1]/", Reason.PRIVATE_ADDRESS, "::ffff:7f00:1"),
        ("/redirect?http://[::1]/", Reason.PRIVATE_ADDRESS, "::1"),
        ("/redirect?http://localhost/", Reason.PRIVATE_ADDRESS, "localhost"),
        ("/redirect?file:///etc/passwd", Reason.HTTP_ERROR, "malformed address"),
        ("/redirect?http://2130706433/", Reason.HTTP_ERROR, "malformed address"),
        ("/redirect?http://[/", Reason.HTTP_ERROR, "malformed address"),
        ("/optout?noai", Reason.HEADER_OPTED_OUT, "noai"),
        ("/optout?none", Reason.HEADER_OPTED_OUT, "noindex"),
        ("/optout?openlvd:+noimageai", Reason.HEADER_OPTED_OUT, "noimageai"),
        ("/endless", Reason.TOO_MANY_BYTES, "more than 200000 bytes"),
        ("/endless-chunked", Reason.TOO_MANY_BYTES, "more than 200000 bytes"),
        ("/negative-chunk", Reason.TOO_MANY_BYTES, "more than 200000 bytes"),
        ("/announces-too-much", Reason.TOO_MANY_BYTES, "more than 200000 bytes"),
        ("/bomb", Reason.TOO_MANY_BYTES, "more than 200000 bytes"),
        ("/cut-gzip", Reason.INCOMPLETE_BODY, "truncated gzip body"),
        ("/short", Reason.INCOMPLETE_BODY, "the connection ended within the body"),
        ("/cut-chunk", Reason.INCOMPLETE_BODY, "the connection ended within the body"),
        ("/endless-headers", Reason.CONNECTION_FAILED, "the server did not answer in HTTP"),
        ("/not-http", Reason.CONNECTION_FAILED, "the server did not answer in HTTP"),
        ("/hang-up", Reason.CONNECTION_FAILED, "the server did not answer in HTTP"),
    ],
)
def test_each_misbehaviour_has_its_reason(path, reason, message, options):
    error = failure(URL + path, options)
    assert error.reason is reason
    assert message in error.message
    assert not any(port in error.message for port in options.resolve["*.test"].split(":")[1:])


@pytest.mark.parametrize("path", ["/drip", "/drip-headers", "/silent"])
def test_the_time_limit_holds_for_the_url_not_for_a_read(path, options):
    began = time.monotonic()
    error = failure(URL + path, options.model_copy(update={"timeout_s": 0.4}))
    assert error.reason is Reason.TIMED_OUT
    assert error.message == "not complete within 0.4 s"
    assert 0.35 < time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/redirect?/chunked", b"abcde"),
        ("/redirect?//lake.test/empty", b""),
        ("/long", b"exactly"),
        ("/gzip", GOOD),
        ("/optout?googlebot:+noai", GOOD),
        ("/optout?max-image-preview:+large", GOOD),
        ("/reserved", GOOD),
    ],
)
def test_what_is_fine_is_fetched(path, body, options):
    assert fetch(URL + path, options).body == body


def test_the_answer_names_its_address_and_rights(options):
    fetched = fetch(f"{URL}/redirect?http://LAKE.test:80/reserved", options)
    assert fetched.final_url == "http://lake.test/reserved"
    assert fetched.rights == ("header:tdm-reservation",)
    refusing = options.model_copy(update={"disallowed_header_directives": ["tdm-reservation"]})
    assert failure(f"{URL}/reserved", refusing).reason is Reason.HEADER_OPTED_OUT
    tolerant = options.model_copy(update={"disallowed_header_directives": []})
    assert fetch(f"{URL}/optout?noai", tolerant).rights == ("header:noai",)


def test_the_request_is_honest_and_without_compression(options, server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    fetch(f"{URL}/chunked", options.model_copy(update={"user_agent": "openlvd/0.1 (+mailto:a@b.org)"}))
    host, _, headers = server.requests[-1]
    assert host == "garden.test"
    assert headers["User-Agent"] == "openlvd/0.1 (+mailto:a@b.org)"
    assert headers["Accept-Encoding"] == "identity"


def test_only_mapped_hosts_reach_loopback(options, server):
    assert failure(f"http://{server.address}/good", options).reason is Reason.PRIVATE_ADDRESS
    assert failure(f"{URL}/redirect?http://{server.address}/good", options).reason is Reason.PRIVATE_ADDRESS
    assert [path for _, path, _ in server.requests] == [f"/redirect?http://{server.address}/good"]


def _answering(*answers):
    replies = iter(answers)

    def getaddrinfo(host, port, **_):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(replies)]

    return getaddrinfo


def test_a_name_with_a_private_address_is_refused(options, server, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", _answering(["10.1.2.3"], ["93.184.215.14", "127.0.0.1"]))
    assert failure("http://rebinding.org/", options).reason is Reason.PRIVATE_ADDRESS
    assert failure("http://rebinding.org/", options).reason is Reason.PRIVATE_ADDRESS
    assert server.requests == []


def test_a_name_is_looked_up_once_and_that_address_is_used(options, monkeypatch):
    """A second look-up, such as create_connection would do for a name, gets a loopback address here."""
    monkeypatch.setattr(socket, "getaddrinfo", _answering(["93.184.215.14"], ["127.0.0.1"]))
    connected = []

    def create_connection(address, timeout):
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", create_connection)
    error = failure("http://rebinding.org/", options)
    assert (error.reason, error.message) == (Reason.CONNECTION_FAILED, "connection refused")
    assert connected == [("93.184.215.14", 80)]


def test_a_checked_address_is_remembered_for_a_while(options, monkeypatch):
    look_ups = _answering(["93.184.215.14"], ["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", look_ups)
    resolver = addresses_module.Resolver(options)
    for _ in range(3):
        assert resolver.addresses("changing.org", 443, 1.0) == [("93.184.215.14", 443)]
    monkeypatch.setattr(addresses_module.time, "monotonic", lambda: 1e12)
    with pytest.raises(FetchError) as caught:
        resolver.addresses("changing.org", 443, 1.0)
    assert caught.value.reason is Reason.PRIVATE_ADDRESS


def test_a_hanging_look_up_ends_with_the_time_limit(options, monkeypatch):
    monkeypatch.setattr(addresses_module.socket, "getaddrinfo", lambda *_, **__: time.sleep(1.5) or [])
    began = time.monotonic()
    error = failure("http://slow.org/", options.model_copy(update={"timeout_s": 0.2}))
    assert error.reason is Reason.TIMED_OUT
    assert time.monotonic() - began < 1


def test_a_name_without_address(options, monkeypatch):
    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    error = failure("http://nowhere.org/", options)
    assert (error.reason, error.message) == (Reason.CONNECTION_FAILED, "nowhere.org has no address")


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.1.2.3", "169.254.169.254", "172.16.0.1", "192.0.0.1"),
        *("192.168.1.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::1"),
        *("2001::1", "fc00::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001:db8::1", "example.org"),
    ],
)
def test_private_addresses(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:4700::1111", "64:ff9b::5db8:d70e", "::ffff:8.8.8.8"])
def test_public_addresses(address):
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_as_private_inside_ipv6(address):
    mapped = ipaddress.IPv6Address(int(address) | 0xFFFF << 32)
    assert is_public(str(mapped)) == is_public(str(address))
