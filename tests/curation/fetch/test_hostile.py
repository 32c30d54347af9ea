"""Every misbehaviour of a server through img2dataset's seam: a row with its own reason, and nothing fetched besides."""

import tarfile

import pytest

from curation.fetch.permission import Permission
from curation.fetch.shard import Fetcher
from curation.links.rules import BlockLists, read_rules
from tests.curation.fetch import hostile


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """By URL, where the chain of redirects from it ends; and the folder, the server's requests."""
    folder = tmp_path_factory.mktemp("shards")
    with hostile.serving() as server, hostile.strange_names(server.server_port):
        options = hostile.options(server)
        blocked = BlockLists((read_rules(["blocked.test"], "blocked_domains"),))
        permission = Permission({}, blocked.refusing, options, fail_closed=True)
        ends, asked = {}, {url: url for url in hostile.URLS}
        with Fetcher(options) as fetcher:
            for number in range(options.max_redirects + 1):
                found = fetcher.fetch_shard(sorted(set(asked.values())), f"{number}", str(folder / "s"), permission)
                by_url = {outcome.url: outcome for outcome in found}
                ends |= {url: by_url[target] for url, target in asked.items()}
                asked = {url: by_url[target].final_url for url, target in asked.items() if by_url[target].has_moved}
        requests = list(server.requests)
    return ends, folder, requests


@pytest.mark.parametrize("url", hostile.URLS)
def test_each_case_has_its_reason(outcomes, url):
    outcome = outcomes[0][url]
    reason, detail = hostile.expected(url)
    if "/elsewhere" in url:  # a chain over hosts: whoever follows it from shard to shard counts
        assert outcome.has_moved
        return
    assert outcome.reason is reason
    assert (outcome.detail or "").startswith(detail or "")
    assert (outcome.shard is None) == (reason is not None)


def test_no_request_but_to_hosts_that_may_be_asked(outcomes):
    hosts = {host for host, _, _ in outcomes[2]}
    assert hosts == {"garden.test", "lake.test", "h0.test"}


def test_a_circle_is_left_after_the_allowed_redirects(outcomes):
    assert sum(path.startswith("/loop") for _, path, _ in outcomes[2]) == 2


def test_no_name_from_the_web_becomes_a_file(outcomes):
    folder = outcomes[1]
    assert [path.name for path in folder.iterdir()] == ["s"]
    for tar in (folder / "s").iterdir():
        with tarfile.open(tar) as opened:
            assert all(name.startswith(f"{tar.stem}-0") and "/" not in name for name in opened.getnames())
