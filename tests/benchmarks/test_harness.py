"""The harness's arithmetic with contenders of known durations, and every benchmark once at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import components, harness

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "components": ["--num-nodes", "1000000", "--num-edges", "50000"],
    "copies": ["--edits", "vflip"],
    "detectors": [],
    "embed": ["--images", "pocket", "--num-images", "9", "--model", "resnet10t", "--size", "64"],
    "download": ["--images", "200", "--small", "100", "--hosts", "10"],
    "join": ["--num-vectors", "3000", "--dim", "64"],
    "kmeans": ["--num-vectors", "500", "--dim", "16", "--k", "8", "--iterations", "3"],
    "links": ["--megabytes", "0.1", "--pages"],
    "loader": ["--images", "pocket", "--num-batches", "2", "--batch", "4", "--workers", "1"],
    "pca_hash": ["--pictures", "pocket", "--num-pictures", "20", "--distinct", "pocket"],
    "retrieval": ["--num-vectors", "3000", "--dim", "64", "--num-queries", "50", "--k", "5", "--num-lists", "16"],
    "screen": ["--images", "pocket"],
    "train_step": ["--arch", "vit_nano", "--batch", "2", "--prototypes", "64", "--precision", "fp32"],
    "writing": ["--megabytes", "2", "--image-bytes", "20000", "--shard-megabytes", "1"],
}
KEYS = {  # what the JSON line of each promises
    "components": {"speedup_scipy", "speedup_scipy_matrix", "speedup_scipy_forest", "bytes_per_node"},
    "copies": {"micro_ap", "recall_at_p90", "recall_crossres", "contenders"},
    "detectors": {"faces", "face_free", "detectors"},
    "embed": {"images_per_s", "speedup_timm", "decode_share", "model_share", "write_share", "agreement"},
    "download": {"images_per_s", "speedup_img2dataset", "peak_rss_bytes_small", "peak_rss_bytes_large"},
    "join": {"speedup_exact_flat", "speedup_spill_ivf", "speedup_spill_bigbatch", "recall_spill", "peak_rss_bytes"},
    "kmeans": {"speedup_faiss", "inertia_ratio", "peak_rss_bytes"},
    "links": {"mb_per_s", "speedup_bs4", "speedup_lxml"},
    "loader": {"crops_per_s", "speedup_webdataset", "speedup_webdataset_pillow", "speedup_webdataset_tensor"},
    "pca_hash": {"thumbnails_per_s", "recall_jpeg75_fitted", "pairs_of_one_hash_0"},
    "retrieval": {"speedup_ivfpq", "recall", "recall_peer"},
    "screen": {"images_per_s", "speedup_pillow"},
    "train_step": {"seconds_per_step", "peak_rss_bytes"},
    "writing": {"mb_per_s", "speed_ratio_cp", "speed_ratio_cp_sha256"},
}


class FakeTime:
    """A clock that only contenders move: each call of one takes the next of its durations."""

    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now

    def contender(self, name: str, *durations: float):
        remaining = iter(durations)

        def run() -> str:
            self.calls.append(name)
            self.now += next(remaining)
            return f"{name} {self.now}"

        return run


@pytest.fixture
def timing():
    time = FakeTime()
    contenders = {
        "ours": time.contender("ours", 1000.0, 2.0, 1.0, 4.0),  # the first is the warm-up
        "peer": time.contender("peer", 500.0, 8.0, 2.0, 4.0),
    }
    return harness.measure(contenders, 3, time.clock)


def test_contenders_run_in_turn_after_one_warm_up_that_does_not_count():
    time = FakeTime()
    contenders = {"ours": time.contender("ours", 9.0, 1.0, 2.0), "peer": time.contender("peer", 9.0, 3.0, 4.0)}
    measured = harness.measure(contenders, 2, time.clock)
    assert time.calls == ["ours", "peer"] * 3
    assert measured.seconds == {"ours": [1.0, 2.0], "peer": [3.0, 4.0]}
    assert measured.rounds == 2
    assert measured.results == {"ours": "ours 124.0", "peer": "peer 128.0"}


def test_what_is_made_ready_before_a_contender_runs_does_not_count():
    time = FakeTime()
    ready = {name: time.contender(f"before {name}", 100.0, 200.0) for name in ("ours", "peer")}
    contenders = {"ours": time.contender("ours", 9.0, 1.0), "peer": time.contender("peer", 9.0, 3.0)}
    measured = harness.measure(contenders, 1, time.clock, lambda name: ready[name]())
    assert time.calls == ["before ours", "ours", "before peer", "peer"] * 2
    assert measured.seconds == {"ours": [1.0], "peer": [3.0]}


def test_a_speedup_is_the_median_of_the_ratios_of_rounds(timing):
    # Ratios 4, 2 and 1. The ratio of the medians, 4 / 2, is the same here; that of the means, 14 / 7, too.
    assert timing.speedup("peer") == {"speedup_peer": 2.0, "speedup_peer_min": 1.0, "speedup_peer_max": 4.0}
    uneven = harness.Timing({"ours": [1.0, 10.0, 10.0], "peer": [5.0, 10.0, 20.0]}, {})
    assert uneven.speedup("peer")["speedup_peer"] == 2.0  # ratios 5, 1, 2; of the medians 1, of the means 5/3
    assert harness.Timing({"ours": [2.0], "peer": [1.0]}, {}).speedup("peer")["speedup_peer"] == 0.5


def test_the_median_of_an_even_number_of_rounds_lies_between_the_middle_two():
    assert harness.Timing({"ours": [5.0, 1.0, 2.0, 4.0]}, {}).median_s() == 3.0


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="--rounds 0: give 1 or more"):
        harness.measure({"ours": lambda: None}, 0)


def test_the_last_line_is_one_json_object(timing, capsys):
    harness.finish("fake", timing, {**timing.speedups(), "count": 3, "share": 0.123456, "absent": None})
    *table, last = capsys.readouterr().out.splitlines()
    told = json.loads(last)
    assert list(told)[:4] == ["name", "hardware", "commit", "rounds"]
    assert (told["name"], told["rounds"]) == ("fake", 3)
    assert told["hardware"].keys() == {"cpu", "cores", "memory_bytes"}
    assert {key: told[key] for key in list(told)[4:]} == {
        "speedup_peer": 2.0,
        "speedup_peer_min": 1.0,
        "speedup_peer_max": 4.0,
        "count": 3,
        "share": 0.1235,
        "absent": None,
    }
    assert [line.split()[0] for line in table[1:]] == ["ours", "peer"]
    assert table[2].split()[1:] == ["4.0000", "2.0000", "8.0000", "2.00", "(1.00", "to", "4.00)"]


def test_the_peak_is_that_of_the_call_and_not_of_this_process():
    held_here = np.ones(40_000_000)  # 320 MB
    small, large = harness.peak_rss_bytes(fill, 1), harness.peak_rss_bytes(fill, 100_000_000)
    assert large - small == pytest.approx(100_000_000, rel=0.1)
    assert small < held_here.nbytes


def fill(num_bytes: int) -> None:
    np.ones(num_bytes, np.uint8)


def test_the_commit_names_this_checkout():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert harness.commit().removesuffix("-dirty") == head.stdout.strip()


def test_partitions_are_compared_and_not_labels():
    assert components.by_lowest_node(np.array([2, 0, 2, 1, 0])).tolist() == [0, 1, 0, 3, 1]


def test_make_bench_runs_the_benchmarks_and_nothing_else():
    done = subprocess.run(["make", "-C", ROOT, "-n", "bench"], capture_output=True, text=True, check=True)
    listed = next(line for line in done.stdout.splitlines() if "tests.benchmarks." in line)
    assert set(listed.partition(" in ")[2].partition(";")[0].split()) == set(TINY) == set(KEYS)


NEEDS_REAL_DATA = ("copies", "detectors")
ALL = [
    pytest.param(name, marks=[pytest.mark.realdata, pytest.mark.slow] if name in NEEDS_REAL_DATA else [])
    for name in TINY
]


@pytest.mark.parametrize("name", ALL)
def test_a_benchmark_runs_and_keeps_its_promise(name, tmp_path, request):
    options = TINY[name]
    if name in NEEDS_REAL_DATA:
        request.getfixturevalue("shared_data")
    if name == "links":
        page = (
            '<meta charset="utf-8"><p>é</p><img src="a.jpg" alt="a"><img src="http://b.test/b.jpg">' + "<p>text" * 2000
        )
        (tmp_path / "page.html").write_text(page, encoding="utf-8")
        options = [*options, str(tmp_path)]
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--rounds", "2", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["name"], told["rounds"]) == (name, 2)
    assert told.keys() >= KEYS[name]
    for key in [key for key in KEYS[name] if key.startswith("speedup_")]:
        assert 0 < told[f"{key}_min"] <= told[key] <= told[f"{key}_max"]
    assert all(told[key] > 0 for key in KEYS[name] if not isinstance(told[key], dict))


@pytest.mark.parametrize("name", TINY)
def test_help_ends_with_an_example(name):
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"example: python -m tests.benchmarks.{name} --" in " ".join(done.stdout.split())
