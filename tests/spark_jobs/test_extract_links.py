"""The stage on small crawls of its own: where links come from, what is kept with them, why they are refused."""

import gzip

import pytest

from conf import load
from curation.pocket_web.warc import DATE, Exchange, response
from curation.schema import Reason
from spark_jobs import extract_links
from spark_jobs.config import CurationConfig
from spark_jobs.stage import execute
from spark_jobs.tables import Tables
from tests.spark_jobs.file_server import serving

pytestmark = pytest.mark.spark


def page(*images, head=""):
    shown = "".join(f'<img src="{url}" alt="a picture">' for url in images)
    return f"<html><head>{head}</head><body>{shown}</body></html>".encode()


def put(folder, name, data):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def captures(*exchanges):
    return b"".join(response(Exchange(*exchange)) for exchange in exchanges)


@pytest.fixture
def extracted(spark, tmp_path):
    """Run the stage alone on what the overrides say: the rows of ``links`` and the report."""

    def run(*overrides, store="store"):
        tables = Tables(str(tmp_path / store))
        config = load(CurationConfig, "conf/curation/own.yaml", [f"store={tables.uri}", *overrides])
        report = execute(extract_links.STAGE, tables, config, lambda: spark)
        return sorted(tables.table("links").to_pylist(), key=lambda row: (row["file"], row["url"])), report

    return run


def test_what_is_kept_with_a_link_of_each_kind_of_source(extracted, tmp_path):
    first = captures(("http://one.test/p", page("/first.jpg")))
    second = captures(("http://two.test/q", page("b.jpg", head='<meta name="robots" content="noindex">')))
    put(tmp_path, "in/crawl/a.warc.gz", first + second)
    put(tmp_path, "in/saved/page.html", page("c.jpg", head='<base href="http://three.test/d/">'))
    put(tmp_path, "in/list.csv", b"url,caption,width\nhttp://four.test/d.jpg,a caption,640\nnot a url,,\n")
    links, report = extracted(
        f"sources.pages=[{tmp_path / 'in/crawl'},{tmp_path / 'in/saved'}]",
        f"sources.urls=[{tmp_path / 'in/list.csv'}]",
        "recipe.extract_links.crawl=may",
    )
    bare = {"crawl": "may", "offset": 0, "crawled_at": None, "rights": [], "reason": None, "detail": None, "alt": None}
    a = {**bare, "file": "a.warc.gz", "crawled_at": DATE, "alt": "a picture"}
    assert links == [
        {**a, "url": "http://one.test/first.jpg", "page_url": "http://one.test/p", "domain": "one.test"},
        {**a, "url": "http://two.test/b.jpg", "page_url": "http://two.test/q", "domain": "two.test",
         "offset": len(first), "rights": ["meta:noindex"]},
        {**bare, "file": "list.csv", "url": "http://four.test/d.jpg", "page_url": None, "domain": "four.test",
         "alt": "a caption"},
        {**bare, "file": "list.csv", "url": "not a url", "page_url": None, "domain": None, "offset": 1,
         "reason": "malformed_url", "detail": "scheme 'missing' is not http or https"},
        {**bare, "file": "page.html", "url": "http://three.test/d/c.jpg", "page_url": "http://three.test/d/",
         "domain": "three.test", "alt": "a picture"},
    ]  # fmt: skip
    assert (report.rows_in, report.kept, report.dropped) == (5, 4, {"malformed_url": 1})


def test_a_changed_list_of_rules_is_a_changed_input_and_each_refusal_has_its_rule(extracted, tmp_path):
    images = ["http://a.bad.test/1.jpg", "http://b.xxx/2.jpg", "http://c.test/ads/3.gif", "http://d.test/4.jpg"]
    put(tmp_path, "in/a.warc.gz", captures(("http://one.test/", page(*images)), ("http://two.test/", page(images[0]))))
    put(tmp_path, "mine.txt", b"# mine\nbad.test\n")
    asked = [f"sources.pages=[{tmp_path / 'in'}]", "recipe.extract_links.blocked_domains=['*/ads/']"]
    lists = f"sources.lists.mine={tmp_path / 'mine.txt'}"  # beside the one that own.yaml names
    links, report = extracted(*asked, lists)
    assert {link["url"]: (link["reason"], link["detail"]) for link in links} == {
        images[0]: ("blocked_domain", "mine: rule bad.test"),
        images[1]: ("blocked_suffix", "adult_suffixes: rule *.xxx"),
        images[2]: ("blocked_pattern", "blocked_domains: rule */ads/"),
        images[3]: (None, None),
    }
    dropped = {"blocked_domain": 1, "blocked_suffix": 1, "blocked_pattern": 1}
    assert (report.rows_in, report.kept, report.dropped) == (4, 1, dropped)
    ledger = Tables(str(tmp_path / "store")).table("decisions").to_pylist()
    assert {row["url"]: row["evidence"] for row in ledger}[images[0]] == "mine: rule bad.test on http://one.test/"

    assert extracted(*asked, lists)[1].seconds is None, "the same lists: nothing to do"
    put(tmp_path, "moved.txt", b"# mine\nbad.test\n")
    assert extracted(*asked, lists.replace("mine.txt", "moved.txt"))[1].seconds is None, "moved: nothing to do"
    put(tmp_path, "mine.txt", b"# mine\nbad.tes_\n")
    assert extracted(*asked, lists)[1].kept == 2


def test_files_that_a_list_of_paths_names_and_that_are_missing_are_rows(extracted, tmp_path):
    names = [f"crawl-data/X/{number}.warc.gz" for number in range(3)]
    put(tmp_path, f"mirror/{names[1]}", captures(("http://one.test/", page("/a::b.jpg"))))
    (tmp_path / "mirror" / names[2]).mkdir()
    paths = put(tmp_path, "warc.paths.gz", gzip.compress("\n".join(names).encode()))
    links, report = extracted(f"sources.pages=[{paths}]", f"sources.paths_root={tmp_path / 'mirror'}")
    assert [(link["file"], link["url"], link["reason"], link["detail"]) for link in links] == [
        (names[0], f"{names[0]}#0", "broken_file", "no such file"),
        (names[1], "http://one.test/a::b.jpg", None, None),
        (names[2], f"{names[2]}#0", "broken_file", "a folder, not a file"),
    ]
    assert report.dropped == {"broken_file": 2}


def test_without_any_of_the_files_the_stage_fails_and_names_the_key(extracted, tmp_path):
    paths = put(tmp_path, "warc.paths", b"crawl-data/a.warc.gz\n")
    with pytest.raises(ValueError, match=r"nor is any other of 1 files .* check sources\.paths_root"):
        extracted(f"sources.pages=[{paths}]", f"sources.paths_root={tmp_path}")
    with pytest.raises(ValueError, match=r"sources\.paths_root=https://data\.commoncrawl\.org"):
        extracted(f"sources.pages=[{paths}]")


def test_file_names_are_no_patterns_and_no_chains(extracted, tmp_path):
    for number, name in enumerate(["a::b.html", "c*.html", "d?e#f.html", "100%25.html", "[g].html", "~.html"]):
        put(tmp_path, f"odd::folder/{name}", page(f"http://img.test/{number}.jpg"))
    links, _ = extracted(f"sources.pages=['{tmp_path}/odd::folder']")
    assert {link["url"] for link in links} == {f"http://img.test/{number}.jpg" for number in range(6)}
    assert {link["reason"] for link in links} == {None}


def test_opted_out_pages_are_refused_by_the_signals_that_the_recipe_names(extracted, tmp_path):
    reserved = response(Exchange("http://one.test/", page("a.jpg"), headers={"TDM-Reservation": "1"}))
    put(tmp_path, "in/a.warc.gz", reserved)
    asked = f"sources.pages=[{tmp_path / 'in'}]"
    assert extracted(asked)[0][0]["reason"] is None
    links, _ = extracted(asked, "recipe.extract_links.opt_out_signals=[tdm-reservation]")
    assert [(link["reason"], link["detail"]) for link in links] == [
        (Reason.PAGE_OPTED_OUT, "header:tdm-reservation"),
    ]
    with pytest.raises(ValueError, match=r"no signal is called 'noia'; known are .*tdm-reservation"):
        extracted(asked, "recipe.extract_links.opt_out_signals=[noia]")


def test_a_crawl_is_read_over_http_from_its_list_of_paths(extracted):
    """A list in its own place names its files' root; what fails is asked for again, what is not there is a row."""
    pytest.importorskip("aiohttp", reason="fsspec reads HTTP by aiohttp: pip install aiohttp")
    names = [f"crawl-data/CC/{name}.warc.gz" for name in ("whole", "flaky", "gone", "forbidden")]
    whole = captures(*((f"http://one.test/{n}", page(f"/{n}.jpg")) for n in range(100)))
    flaky = captures(("http://two.test/", page("/flaky.jpg")))
    listed = "/crawl-data/CC/warc.paths.gz"
    files = {listed: gzip.compress("\n".join(names).encode()), f"/{names[0]}": whole, f"/{names[1]}": flaky}
    faults = {f"/{names[1]}": [503, "cut"], f"/{names[3]}": [403] * 100}
    with serving(files, faults) as server:
        links, report = extracted(f"sources.pages=[{server.url}{listed}]")
        assert report.dropped == {"broken_file": 2}
        assert {(link["file"], link["detail"]) for link in links if link["reason"]} == {
            (names[2], "no such file (HTTP 404)"),
            (names[3], "not ours to read (HTTP 403)"),
        }
        assert sum(link["file"] == names[0] for link in links) == 100
        assert [link["url"] for link in links if link["file"] == names[1]] == ["http://two.test/flaky.jpg"]

        asked = dict(server.asked)
        assert extracted(f"sources.pages=[{server.url}{listed}]")[1].seconds is None
        assert {path for path in server.asked if server.asked[path] > asked[path]} == {listed}, (
            "the files were asked for"
        )
