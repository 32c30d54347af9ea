import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curation.links.pages import Broken
from curation.links.url_lists import UrlRow, read_url_list

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
