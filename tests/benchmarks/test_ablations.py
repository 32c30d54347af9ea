import json
import sys

from tests.benchmarks import ablations
from tests.training.small import jpeg, settings


def test_two_variants_are_trained_compared_and_drawn(tmp_path, monkeypatch, capsys):
    """The real command with two of its five runs, four steps long, on twenty pictures of two classes."""
    for split, first in (("train", 0), ("test", 100)):
        for number in range(10):
            folder = tmp_path / split / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.jpg").write_bytes(jpeg(first + number))
    probe = {"every_steps": 2, "train": str(tmp_path / "train"), "test": str(tmp_path / "test"), "k": 3}
    made = settings(tmp_path / "train", tmp_path / "unused", {"steps": 4}, {"probe": probe, "pictures_every_steps": 0})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(made.model_dump_json())
    names = ("whole recipe", "without KoLeo")
    monkeypatch.setattr(ablations, "SWITCHED_OFF", {name: ablations.SWITCHED_OFF[name] for name in names})
    monkeypatch.setattr(sys, "argv", ["ablations", "--recipe", str(recipe), "--out", str(tmp_path / "out")])
    assert ablations.main() == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [step for step, _ in told["curves"]["without KoLeo"]] == [2, 4]
    assert set(told["knn"]) == {*names, "random network", "raw pixels"}
    assert all(0 <= accuracy <= 1 for accuracy in told["knn"].values())
    held = json.loads((tmp_path / "out/without_koleo/run.json").read_text())
    assert held["recipe"]["losses"]["koleo_weight"] == 0
    assert (tmp_path / "out/knn.svg").stat().st_size > 1000
