import gzip
import io
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.links import url_lists
from curation.links.pages import Broken
from curation.links.rows import LinkRules, links_of_list, links_of_pages
from curation.links.url_lists import UrlRow, read_url_list
from curation.schema import LINKS

A, B = "http://a.test/1.jpg", "http://b.test/2.jpg"
ROWS = [UrlRow(A, "a, caption", 0), UrlRow(B, None, 1)]


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def read(data, name):
    return list(read_url_list(io.BytesIO(data), name))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l.parquet", parquet(similarity=[0.1, 0.2], URL=[A, B], TEXT=["a,  caption", None])),
        ("l.csv", f'caption,url\n"a, caption",{A}\n,{B}\n'.encode()),
        ("l.csv", f'\ufeffurl,alt\r\n{A},"a,\ncaption"\r\n{B}\r\n'.encode()),
        ("l.jsonl", f'{{"url": "{A}", "caption": "a, caption"}}\n{{"url": "{B}", "caption": null}}\n'.encode()),
        ("l.csv.gz", f"url,alt,text\n{A},x,\n{B},,\n".replace(",x,", ",x,").encode()),
    ],
)
def test_formats(name, data):
    rows = read(data, name)
    if name == "l.csv.gz":  # "alt" goes before "text"
        assert rows == [UrlRow(A, "x", 0), UrlRow(B, None, 1)]
    else:
        assert rows == ROWS


def test_lists_of_urls_alone():
    assert read(f"{A}\n{B}\n".encode(), "l.csv") == [UrlRow(A, None, 0), UrlRow(B, None, 1)]
    assert read(f"# mine\n{A}\n\n  {B} \n".encode(), "l.txt") == [UrlRow(A, None, 1), UrlRow(B, None, 3)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l.parquet", parquet(link=[A], text=["x"])),
        ("l.csv", b"link,text\nhttp://a.test/,x\n"),
        ("l.jsonl", b'{"link": "http://a.test/", "text": "x"}\n'),
    ],
)
def test_without_a_url_column_the_error_names_those_there(name, data):
    with pytest.raises(ValueError, match=r"no column 'url'; the columns there are 'link', 'text'"):
        read(data, name)


def test_another_format_is_an_error():
    with pytest.raises(ValueError, match="formats are"):
        read(b"", "l.xlsx")


@pytest.mark.parametrize(
    ("name", "data", "offsets"),
    [
        (
            "l.jsonl",
            f'{{"url": "{A}"}}\nnot json\n[1]\n{{"link": 1}}\n{{"url": 7}}\n{{"url": "{B}"}}\n'.encode(),
            [1, 2, 3, 4],
        ),
        ("l.csv", f"alt,url\nx,{A}\nonly one cell\ny,\nz,{B}\n".encode(), [1, 2]),
        ("l.csv", f"url\n{A}\n{'x' * 200_000}\n{B}\n".encode(), [1]),
        ("l.parquet", parquet(url=[A, None, B]), [1]),
    ],
)
def test_a_broken_row_is_reported_and_the_rest_is_read(name, data, offsets):
    items = read(data, name)
    assert [item.offset for item in items if isinstance(item, Broken)] == offsets
    assert [item.url for item in items if isinstance(item, UrlRow)] == [A, B]


@pytest.mark.parametrize(
    ("name", "data"),
    [("l.parquet", b"PAR1 no"), ("l.parquet", b""), ("l.csv", b""), ("l.parquet", parquet(url=[A])[:-20])],
)
def test_broken_files(name, data):
    assert [(item.kind, item.offset) for item in read(data, name)] == [("file", 0)]


def rows_of(data, name):
    """As the stage writes them: Arrow takes nothing that UTF-8 cannot write."""
    rows = [row for batch in links_of_list(io.BytesIO(data), name, LinkRules("t")) for row in batch.to_pylist()]
    return pa.RecordBatch.from_pylist(rows, schema=LINKS.schema).to_pylist()


def test_half_a_surrogate_pair_is_replaced_in_a_caption_and_refused_in_a_url():
    lines = [rf'{{"url": "{A}", "alt": "hi \ud83d"}}', rf'{{"url": "{B}\udc00"}}', r'{"url": "http://\ud83d.test"}']
    first, second, third = rows_of("\n".join(lines).encode(), "l.jsonl")
    assert (first["url"], first["alt"], first["reason"]) == (A, "hi \ufffd", None)
    assert (second["url"], second["reason"]) == (f"{B}\ufffd", "malformed_url")
    assert second["detail"] == "URL with half a surrogate pair"
    assert third["reason"] == "malformed_url"


def test_a_file_name_that_is_not_utf8_is_written_with_replacements():
    assert [(row["file"], row["url"]) for row in rows_of(f"{A}\n".encode(), "caf\udce9.txt")] == [("caf\ufffd.txt", A)]
    page = io.BytesIO(b"<html><img src='http://a.test/1.jpg'><img src='data:,'></html>")
    rows = [row for batch in links_of_pages(page, "caf\udce9.html", LinkRules("t")) for row in batch.to_pylist()]
    assert pa.RecordBatch.from_pylist(rows, schema=LINKS.schema).column("file").to_pylist() == ["caf\ufffd.html"] * 2


def test_bytes_in_parquet_that_are_no_text():
    text = pa.array([b"http://a.test/\xff", b"ok", None], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, text.buffers())
    assert [getattr(row, "url", None) for row in read(parquet(url=column), "l.parquet")] == [
        "http://a.test/\ufffd",
        "ok",
        None,
    ]


@pytest.mark.parametrize("name", ["l.csv", "l.csv.gz"])
def test_a_header_longer_than_csv_reads(name):
    (item,) = read(b"x" * 200_000 + b",url\n" + A.encode(), name)
    assert (item.kind, item.offset) == ("file", 0)
    assert item.message.startswith("header: field larger")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("l.csv", f'url,alt\n{A},"a, caption"\n{B}\n'),
        ("l.jsonl", f'{{"url": "{A}", "alt": "a, caption"}}\n{{"url": "{B}"}}\n'),
    ],
)
def test_gzip_is_unpacked_whatever_the_name_says(name, data, suffix):
    assert read(gzip.compress(data.encode()), name + suffix) == ROWS


def test_gzip_members_are_joined_and_text_is_unpacked():
    data = gzip.compress(f"{A}\n".encode()) + gzip.compress(B.encode())
    assert read(data, "l.txt.gz") == [UrlRow(A, None, 0), UrlRow(B, None, 1)]


@pytest.mark.parametrize("name", ["l.csv.gz", "l.jsonl.gz", "l.txt.gz"])
def test_gzip_that_is_cut_or_damaged_ends_in_a_broken_file(name):
    line = '{"url": "http://a.test/%s"}\n' if "json" in name else "http://a.test/%s\n"
    noise = random.Random(0)
    data = gzip.compress("".join(line % noise.getrandbits(64) for _ in range(20_000)).encode())
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 255
    for broken, message in ((data[: len(data) // 2], "truncated"), (bytes(damaged), "damaged"), (data[:12], "trunc")):
        *rows, last = read(broken, name)
        assert (last.kind, last.offset) == ("file", len(rows))
        assert last.message.startswith(message)
        assert all(isinstance(row, UrlRow) for row in rows[:-1])


def test_gzip_has_a_cap_on_what_comes_out(monkeypatch):
    monkeypatch.setattr(url_lists, "MAX_UNPACKED_BYTES", 100_000)
    *rows, last = read(gzip.compress(f"{A}\n".encode() * 100_000), "l.txt.gz")
    assert 0 < len(rows) <= 100_000 // len(A)
    assert last == Broken(len(rows), "file", "unpacks to more than 100000 bytes")


def test_parquet_inside_gzip_is_refused():
    (item,) = read(gzip.compress(parquet(url=[A])), "l.parquet.gz")
    assert item == Broken(0, "file", "Parquet inside gzip is not read; unpack it")


@pytest.mark.parametrize("names", [["url", "url"], ["caption", "url", "caption"]])
def test_parquet_with_several_columns_of_a_name(names):
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array([A])] * len(names), names=names), sink)
    (item,) = read(sink.getvalue(), "l.parquet")
    assert (item.kind, item.offset) == ("file", 0)
    assert "rename" in item.message


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        (f'url,alt\n{A},"not closed\n{B},x\n{A},y\n', [0]),
        (f'url,alt\n{A},x\n{A},"not closed\n{B},"x"\n{A},y\n', [1]),
        (f'alt,url\n"not closed,{A}\nx,{B}\n,{A}\n', [0]),
        (f'url\n"{A}\n{B}\n{A}\n', [0]),
        (f'{A}\n"{A}\n{B}\n{A}\n', [1]),
        (f'url,alt\n{A},"\n' + f"{B},{'x' * 100}\n" * 3000 + f"{A},y\n", [0]),
    ],
)
def test_a_quote_that_is_not_closed_costs_its_own_row(text, offsets):
    lines = text.removeprefix("url,alt\n").removeprefix("alt,url\n").removeprefix("url\n").splitlines()
    items = read(text.encode(), "l.csv")
    assert [item.offset for item in items if isinstance(item, Broken)] == offsets
    assert [getattr(item, "row", None) or getattr(item, "offset", 0) for item in items] == list(range(len(lines)))
    for n, line in enumerate(lines):
        assert n in offsets or items[n].url in line
    assert items[-1].url == A


def test_a_single_column_whose_first_quote_is_not_closed():
    assert [getattr(item, "url", None) for item in read(f'"{A}\n{B}\n'.encode(), "l.csv")] == [None, B]


def test_a_row_of_very_many_lines_is_given_up_and_they_are_read():
    text = "url,alt\n" + f'{A},"\n' + 'a"b,"c\n' * 5000 + f'",\n{B},x\n'
    items = read(text.encode(), "l.csv")
    assert isinstance(items[0], Broken)
    assert items[-1] == UrlRow(B, "x", items[-1].row)
    assert sum(isinstance(item, Broken) for item in items) > 4900
    caption = UrlRow(A, "two lines http://c.test/", 0)
    assert read(f'url,alt\n{A},"two\nlines http://c.test/"\n{B},\n'.encode(), "l.csv") == [caption, UrlRow(B, None, 1)]
