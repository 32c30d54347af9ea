import json

import numpy as np
import pytest

from evaluation import records

MADE_BY = {
    "protocol": "knn-10", "protocol_hash": "a", "dataset_fingerprint": "f", "split": "test", "dtype": "float32",
    "resolution": 56,
}  # fmt: skip


def test_comparison_counts_the_discordant_images():
    first, second = np.array([1, 1, 1, 0, 1], bool), np.array([1, 0, 0, 1, 0], bool)
    result = records.compare(
        records.accuracy_record(first, model="trained", **MADE_BY),
        records.accuracy_record(second, model="raw_pixels", **MADE_BY),
        first,
        second,
    )
    assert (result["only_model_correct"], result["only_baseline_correct"]) == (3, 1)
    assert result["difference"] == pytest.approx(0.4)
    assert result["p_value"] == pytest.approx(2 * (1 + 4) / 16)  # two-sided binomial tail of 1 in 4, by hand


def test_comparison_refuses_another_protocol():
    correct = np.ones(4, bool)
    first = records.accuracy_record(correct, model="trained", **MADE_BY)
    second = records.accuracy_record(correct, model="random_init", **{**MADE_BY, "protocol_hash": "b"})
    with pytest.raises(ValueError, match="protocol_hash is 'a' and 'b'"):
        records.compare(first, second, correct, correct)


def test_a_damaged_document_is_named(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"identity": {}}) + "\n" + json.dumps({"identity": {}}))
    with pytest.raises(ValueError, match=r"results\.json: is not valid JSON"):
        records.read_results(tmp_path)


def test_nothing_is_no_results(tmp_path):
    assert records.read_results(tmp_path) is None
