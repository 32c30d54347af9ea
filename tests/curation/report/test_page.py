import dataclasses
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from curation.report import galleries
from curation.report.collect import Pictures, collect
from curation.report.page import Inputs, build
from curation.store import Store
from tests.curation.report.synthetic import HOSTILE, World


class Page(HTMLParser):
    """Every start tag with its attributes, and the text outside style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def inputs(world: World, **changes) -> Inputs:
    parts = {name: str(world.root / name) for name in ("store", "release", "training", "evaluation")}
    return Inputs(**{**parts, "truth": str(world.root / "truth.json"), **changes})


@pytest.fixture(scope="module")
def html(world) -> str:
    return build(inputs(world))


def words(html: str) -> str:
    return re.sub(r"\s+", " ", Page(html).text)


def test_the_page_can_make_no_request(html):
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & {t for t, a in page.tags if a.get("href") != "data:,"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "srcset", "poster", "data", "action"):
                assert value.startswith("data:image/"), (tag, value[:80])
            if name == "href":
                assert value.startswith("#") or value == "data:,"
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_every_picture_has_words_and_every_anchor_a_target(html):
    page = Page(html)
    assert all(attributes["alt"] for tag, attributes in page.tags if tag == "img")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for t, a in page.tags if t == "a"} <= set(ids)


def test_hostile_text_is_shown_and_never_markup(html):
    assert "<script" not in html
    assert HOSTILE in Page(html).text


def test_the_funnel_shows_the_ledger_counts(html):
    text = words(html)
    assert "28 in, 22 kept, 6 dropped" in text
    assert "near duplicate 5" in text
    assert "The release holds 20 images." in text


def test_a_stage_that_loses_rows_is_marked(world, tmp_path):
    broken = World(tmp_path)
    broken.data = world.data
    original = broken._table

    def lose(table, rows):
        original(table, [{**r, "rows_in": r["rows_in"] + 1} for r in rows] if table.name == "runs" else rows)

    broken._table = lose
    broken.write()
    assert "does not add up" in build(Inputs(str(broken.store)))


def test_planted_beside_found(html):
    text = words(html)
    assert "7 / 9" in text
    assert "near duplicate66.7% (2 of 3)40.0% (2 of 5)" in text.replace(" 66", "66").replace(" 40", "40")
    assert "unsupported format0.0% (0 of 1)none to count" in text.replace(" 0.0", "0.0").replace(" none", "none")


def test_what_nobody_looked_for_is_not_counted_as_zero(html):
    text = words(html)
    assert text.count("NOT EVALUATED") == 2
    assert "1 case with a face planted; nothing looked for them" in text


def test_who_looked_for_faces_is_named_and_unsafe_content_is_still_not_evaluated(world, tmp_path):
    looked_at = World(tmp_path)
    original = looked_at._table
    who = {
        "name": "opencv_haar",
        "version": "4.14",
        "licence": "BSD-3-Clause <i>",
        "digest": "ab" * 32,
        "labels": ["face"],
    }
    found = {"images": 1028, "images_with_boxes": 7, "boxes": 9}
    metrics = json.dumps({"detectors": {"opencv": who}, "detections": {"opencv": found}})

    def detected(table, rows):
        screen = [{**r, "metrics": metrics} if r.get("stage") == "screen" else r for r in rows]
        original(table, screen if table.name == "runs" else rows)

    looked_at._table = detected
    looked_at.write()
    html = build(Inputs(str(looked_at.store)))
    section = html[html.index('<h2 id="safety">') : html.index('<h2 id="models">')]
    text = words(section)
    assert re.search(r"opencv ?opencv_haar, digest abababababababab ?4\.14 ?BSD-3-Clause <i> ?face ?1,028 ?7 ?9", text)
    assert "<i>" not in section
    assert text.count("NOT EVALUATED") == 1
    assert "NOT EVALUATED NSFW." in text


def test_classical_descriptors_are_named_as_such_and_trained_ones_are_not(html):
    models = html[html.index('<h2 id="models">') : html.index('<h2 id="training">')]
    rows = models.split("<tr>")[2:]
    assert ["CLASSICAL STAND-IN" in row for row in rows] == [True, False]


def test_the_evidence_of_a_leak_is_the_evaluation_picture(world, html):
    section = html[html.index('id="dedup-evaluation_copy"') :]
    figure = section[: section.index("</figure>")]
    assert len(re.findall(r'<img src="data:image/jpeg;base64,[^"]{200,}"', figure)) == 2
    assert world.ids[90][:12] in figure
    assert "similarity 0.71, threshold 0.45" in figure


def test_a_file_that_is_no_picture_gets_a_placeholder(html):
    section = html[html.index('id="screen-not_an_image"') :]
    assert "data:image/svg+xml;base64," in section[: section.index("</figure>")]


def test_the_loss_curve_ends_where_the_records_do(html):
    assert "loss from 9 to 5.2" in html  # the half-written last line is not a record


def test_the_same_store_gives_the_same_bytes(world, html):
    assert build(inputs(world)) == html


def test_absent_parts_are_sentences(world):
    text = words(build(inputs(world, release=None, training=None, evaluation=None, truth=None)))
    for sentence in (
        "No release was named.",
        "No training was named.",
        "No evaluation was named.",
        "No truth was given",
    ):
        assert sentence in text


FIGURES = ("loss from 9 to 5.2", "83.0%")


def companions(world, tmp_path, root=None, weights="c" * 64) -> str:
    """The page where the training names this release and its model these weights; None where it names none."""
    shutil.copytree(world.root / "training", tmp_path / "training")
    identity = {"release": {"merkle_root": root}} if root else {}
    (tmp_path / "training/run.json").write_text(json.dumps(identity))
    (tmp_path / "training/model.json").unlink()
    if weights:
        (tmp_path / "training/model.json").write_text(json.dumps(identity | {"weights_sha256": weights}))
    return build(inputs(world, training=str(tmp_path / "training")))


def root_of(world) -> str:
    return json.loads((world.root / "release/manifest.json").read_text())["merkle_root"]


def test_figures_of_this_release_and_model_are_shown(world, html):
    assert all(figure in html for figure in FIGURES)


@pytest.mark.parametrize(("root", "sentence"), [("0" * 64, "of another release"), (None, "does not say which release")])
def test_figures_of_another_release_are_left_out(world, tmp_path, root, sentence):
    page = companions(world, tmp_path, root)
    assert sentence in page
    assert not any(figure in page for figure in FIGURES)


@pytest.mark.parametrize(("weights", "sentence"), [("0" * 64, "of another model"), (None, "no model.json yet")])
def test_scores_of_another_model_are_left_out(world, tmp_path, weights, sentence):
    page = companions(world, tmp_path, root_of(world), weights)
    assert sentence in page
    assert [figure in page for figure in FIGURES] == [True, False]


def test_figures_cannot_be_tied_to_a_release_that_is_not_there(world):
    page = build(inputs(world, release=None))
    assert "Without a finished release nothing says what the training was on" in page
    assert not any(figure in page for figure in FIGURES)


def test_an_image_that_goes_with_its_group_says_so(world):
    store = Store(str(world.store))
    found = collect(store, None)
    (direct,) = found.dropped_by("dedup")["evaluation_copy"]
    goes_along = dataclasses.replace(direct, image_id=world.ids[24], score=None, threshold=None)
    exhibit = galleries.exhibit(goes_along, galleries.Thumbnails(found, Pictures(store, None)))
    assert exhibit.facts == (f"its group of copies touches evaluation image {world.ids[90]}",)
    assert exhibit.evidence.image_id == world.ids[90]
    assert galleries.exhibit(direct, galleries.Thumbnails(found, Pictures(store, None))).facts == (
        "similarity 0.71, threshold 0.45",
    )


def test_unfinished_parts_are_sentences(world, tmp_path):
    text = words(build(inputs(world, release=str(tmp_path), training=str(tmp_path), evaluation=str(tmp_path))))
    assert "There is no finished release" in text
    assert "no metrics.jsonl yet" in text
    assert "no results.json yet" in text


def test_an_empty_store_is_a_sentence(tmp_path):
    text = words(build(Inputs(str(tmp_path))))
    assert "No stage has finished in this store yet" in text


def test_an_empty_release_is_a_sentence(tmp_path):
    world = World(tmp_path).write()
    world.write_release(num_images=0)
    assert "The release is finished and holds no image." in words(
        build(Inputs(str(world.store), str(tmp_path / "release")))
    )


def test_bytes_that_are_gone_leave_a_placeholder(tmp_path):
    world = World(tmp_path).write()
    (world.store / "shards/aaaa/00000.tar").unlink()
    page = build(Inputs(str(world.store)))
    assert "data:image/svg+xml" in page


def test_a_long_gallery_says_how_much_it_shows(html, monkeypatch, world):
    monkeypatch.setattr("curation.report.galleries.PER_REASON", 2)
    assert "Showing 2 of 5 images." in words(build(inputs(world)))


def test_a_damaged_results_file_is_named(world, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({}) * 2)
    with pytest.raises(ValueError, match=r"results\.json: is not valid JSON"):
        build(inputs(world, evaluation=str(tmp_path)))


def test_the_command_names_a_missing_store(tmp_path):
    command = [sys.executable, "-m", "curation.report", str(tmp_path / "absent"), "-o", str(tmp_path / "r.html")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert re.fullmatch(r"error: store = '.*absent': no such file or folder; .*\n", answer.stderr)
    assert not (tmp_path / "r.html").exists()
