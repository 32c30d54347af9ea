import fnmatch
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf import shipped
from curation.links.rules import BlockLists, read_rules
from curation.links.urls import normalise
from curation.schema import Reason


def refusal(rule, url):
    return BlockLists((read_rules([rule], "mine"),)).refusing(normalise(url))


@pytest.mark.parametrize(
    ("rule", "refused", "passed"),
    [
        ("bad.org", ["http://bad.org/", "https://a.b.bad.org:8080/x"], ["http://notbad.org/", "http://bad.org.good.net/"]),
        ("BAD.org.", ["http://bad.org/"], ["http://good.org/bad.org"]),
        ("||bad.org^", ["http://bad.org/", "http://a.bad.org/"], ["http://notbad.org/"]),
        ("bücher.example", ["http://bücher.example/", "http://a.xn--bcher-kva.example/"], ["http://bucher.example/"]),
        ("192.0.2.1", ["http://192.0.2.1/", "http://192.0.2.1:8080/"], ["http://192.0.2.10/", "http://1.192.0.2/"]),
        ("[2001:db8::1]", ["http://[2001:DB8:0::1]/", "http://[2001:db8::1]:81/"], ["http://[2001:db8::2]/"]),
    ],
)  # fmt: skip
def test_a_domain_refuses_itself_and_what_is_below(rule, refused, passed):
    assert {refusal(rule, url)[0] for url in refused} == {Reason.BLOCKED_DOMAIN}
    assert [refusal(rule, url) for url in passed] == [None] * len(passed)


@pytest.mark.parametrize("rule", ["*.xxx", ".xxx", ".XXX  # adult", "*.co.xxx"])
def test_a_suffix_refuses_every_name_with_it(rule):
    ending = rule.partition("#")[0].strip().lower().lstrip("*.")
    reason, detail = refusal(rule, f"http://pictures.any.{ending}/a.jpg")
    assert (reason, detail) == (Reason.BLOCKED_SUFFIX, f"mine: rule *.{ending}")
    assert refusal(rule, f"http://{ending}.org/{ending}") is None


@pytest.mark.parametrize(
    "line", ["0.0.0.0 ads.org", "127.0.0.1\tads.org # why", "::1 other.org ads.org", "fe80::1%lo0 ads.org"]
)
def test_a_line_of_a_hosts_file_refuses_that_host_alone(line):
    assert refusal(line, "http://ads.org/x") == (Reason.BLOCKED_DOMAIN, "mine: rule host ads.org")
    assert refusal(line, "http://www.ads.org/") is None


@pytest.mark.parametrize(
    ("rule", "refused", "passed"),
    [
        ("x.org/private/", ["http://x.org/private/a", "https://x.org/private/"], ["http://x.org/privates", "http://y.x.org/private/"]),
        ("https://x.org/a", ["http://x.org/a", "http://x.org/ab"], ["http://x.org:8080/a", "http://x.org/b"]),
        ("x.org:8080/a", ["http://x.org:8080/a"], ["http://x.org/a"]),
        ("x.org/A%20b/", ["http://x.org/a%20b/c", "http://x.org/A B/c"], ["http://x.org/ab"]),
        ("x.org/é", ["http://x.org/%C3%A9.jpg"], ["http://x.org/e"]),
        ("*/ads/*.gif|", ["http://x.org/ads/1.gif", "http://y.net/a/ADS/b/1.gif"], ["http://x.org/ads/1.gif?x", "http://x.org/ad/1.gif"]),
        ("*/ads/", ["http://x.org/ads/1.gif", "http://x.org/a/ads/"], ["http://ads.org/", "http://x.org/ads"]),
        ("img*.x.org/a*c|", ["http://img7.x.org/abc", "http://img.x.org/ac"], ["http://x.org/ac", "http://img.x.org/acd"]),
        ("x.org/a|", ["http://x.org/a"], ["http://x.org/ab"]),
    ],
)  # fmt: skip
def test_patterns(rule, refused, passed):
    for url in refused:
        assert refusal(rule, url) == (Reason.BLOCKED_PATTERN, f"mine: rule {rule}"), url
    assert [refusal(rule, url) for url in passed] == [None] * len(passed)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_stars_mean_what_fnmatch_says(pattern, path):
    expected = fnmatch.fnmatchcase(f"x.org/{path}", f"x.org/{pattern}")
    assert (refusal(f"x.org/{pattern}|", f"http://x.org/{path}") is not None) == expected


def test_a_hostile_pattern_on_a_hostile_url_is_no_trap():
    rules = BlockLists((read_rules(["*/" + "a*" * 1000 + "b|"], "mine"),))
    assert rules.refusing("http://x.org/" + "a" * 7000) is None  # a backtracking matcher would not return


def test_comments_and_empty_lines_are_no_rules():
    lines = ["# hosts", "", "! adblock", "[Adblock Plus 2.0]", "\ufeff# mark", "a.org # reason", "  b.org\r\n", "a.org"]
    rules = read_rules(lines, "mine")
    assert (rules.domains, len(rules), rules.num_unreadable) == ({"a.org", "b.org"}, 2, 0)


@pytest.mark.parametrize(
    "line", ["*", "bad org", "exa mple.org/x", "a..org", "example.com##.banner", "@@||a.org^", "*ads*", "-a.org/x"]
)
def test_a_small_list_with_a_line_that_is_no_rule_is_refused(line):
    with pytest.raises(ValueError, match=r"list 'mine', line 2: .*write example\.com"):
        read_rules(["good.org", line], "mine")


def test_a_large_list_may_hold_a_few_lines_that_are_no_rules():
    lines = [f"site{i}.org" for i in range(300)]
    rules = read_rules([*lines, "a..org", "b_.-.org"], "mine")
    assert (len(rules), rules.num_unreadable) == (300, 2)
    with pytest.raises(ValueError, match="line 301"):
        read_rules([*lines, *["a..org"] * 4], "mine")


def test_the_first_list_that_refuses_is_named():
    lists = BlockLists((read_rules(["a.org"], "unsafe"), read_rules(["*.org", "b.org/x"], "mine")))
    assert lists.refusing("http://a.org/") == (Reason.BLOCKED_DOMAIN, "unsafe: rule a.org")
    assert lists.refusing("http://b.org/x") == (Reason.BLOCKED_SUFFIX, "mine: rule *.org")
    assert lists.refusing("http://b.net/") is None
    assert BlockLists().refusing("http://a.org/") is None


@given(
    st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){1,3}", fullmatch=True),
    st.sets(st.from_regex(r"[a-z]{1,3}(\.[a-z]{1,3}){0,2}", fullmatch=True), max_size=5),
)
def test_domains_agree_with_a_plain_reading(host, domains):
    expected = any(host == domain or host.endswith(f".{domain}") for domain in domains)
    found = BlockLists((read_rules(sorted(domains), "mine"),)).refusing(f"http://{host}/")
    assert (found is not None) == expected


def test_the_list_that_ships_covers_its_suffixes():
    path = shipped("conf/curation/lists/adult_suffixes.txt")
    rules = read_rules(Path(path).read_text().splitlines(), "adult")
    assert rules.suffixes == {"xxx", "porn", "adult", "sex"}
    assert len(rules) == 4
