import json
import os
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.training.commands import assert_close, finish, reached, run, start, wait_for
from tests.training.small import make_release, settings

HEAD = {"prototypes": 32, "hidden": 32, "bottleneck": 16}
# Which samples skip a branch depends on the process. With a small layer scale all class tokens would begin alike, so
# that the logarithm in KoLeo would enlarge the last bits of their distances
WHOLE = {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "layer_scale": 1.0}
RECIPES = {
    "sinkhorn": {"heads": {"dino": HEAD, "ibot": HEAD}},
    "softmax": {"losses": {"centering": "softmax"}, "masking": {"probability": 0.25}},
}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("data") / "release", corrupt=1)


def small(release: Path, output: Path, recipe: dict | None = None, **runtime):
    return settings(release, output, {"model": WHOLE, **(recipe or {})}, runtime)


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_do_what_one_does_with_the_whole_batch(release, tmp_path, name):
    for count in (1, 2):
        code, out, err = run(small(release, tmp_path / str(count), RECIPES[name], processes=count))
        assert (code, err) == (0, "")
        assert out.count("finished") == 1
    assert_close(tmp_path / "1", tmp_path / "2")


def test_a_run_goes_on_with_another_number_of_processes(release, tmp_path):
    """1, 2, then 1 process: the same samples in the same order, and nothing of the moments or centres lost."""
    recipe = {"steps": 60, "losses": {"centering": "softmax"}}
    code, _, err = run(small(release, tmp_path / "whole", recipe))
    assert (code, err) == (0, "")
    often = {"checkpoint_every_steps": 7, "log_every_steps": 1}
    for count, until in ((1, 10), (2, 30)):
        process = start(small(release, tmp_path / "parts", recipe, processes=count, **often))
        wait_for(lambda until=until: reached(tmp_path / "parts", until), process)
        process.send_signal(signal.SIGUSR1)
        code, out, err = finish(process)
        assert (code, err) == (75, "")
        assert "by SIGUSR1, all saved" in out
    code, out, err = run(small(release, tmp_path / "parts", recipe, **often))
    assert (code, err) == (0, "")
    assert "from step 0" not in out
    assert_close(tmp_path / "whole", tmp_path / "parts", 1e-3)


def test_two_processes_and_parts_go_on_with_the_queue_that_one_left(release, tmp_path):
    recipe = {"losses": {"queue": 7}}  # no multiple of a batch, so that samples leave in their order or not at all
    one, two = tmp_path / "1", tmp_path / "2"
    code, _, err = run(small(release, one, recipe))
    assert (code, err) == (0, "")
    shutil.copytree(one, two)
    shutil.rmtree(two / "checkpoints/step_00000006")
    (two / "model.json").unlink()
    code, out, err = run(small(release, two, recipe, processes=2, accumulate=2))
    assert (code, err) == (0, "")
    assert "from step 3" in out
    assert_close(one, two)


def test_a_process_that_is_killed_ends_all_and_the_run_goes_on(release, tmp_path):
    recipe = {"steps": 60}
    made = small(release, tmp_path / "run", recipe, processes=2, log_every_steps=1, checkpoint_every_steps=5)
    process = start(made)
    wait_for(lambda: reached(tmp_path / "run", 8), process)
    victim = next(child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1")
    os.kill(victim.pid, signal.SIGKILL)
    code, _, err = finish(process)
    assert code != 0
    assert "process 1 of 2 ended with -9" in err
    assert not psutil.pid_exists(victim.pid)
    code, out, _ = run(small(release, tmp_path / "run", recipe))
    assert code == 0
    assert "from step 0" not in out


def test_a_run_that_goes_astray_stops_and_every_process_leaves_its_batch(release, tmp_path):
    recipe = {"optimiser": {"base_lr": 1e30}}
    made = small(release, tmp_path / "run", recipe, processes=2, max_nonfinite_steps=2, log_every_steps=1)
    code, _, err = run(made)
    assert code == 2
    assert "2 updates in a row were not finite" in err
    assert "Traceback" not in err
    found = sorted((tmp_path / "run/nonfinite").iterdir())
    assert [path.name for path in found] == [f"step_00000003_process_{rank}.safetensors" for rank in (0, 1)]
    crops = [load_file(path)["global_crops"] for path in found]
    assert crops[0].shape == crops[1].shape
    assert not crops[0].equal(crops[1])


def test_what_cannot_be_shared_out_is_one_sentence(release, tmp_path):
    code, _, err = run(small(release, tmp_path / "run", processes=3))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "recipe.batch_size_global = 4 cannot be shared out equally among 3 processes; choose a multiple of 3" in err


def test_a_lost_shard_is_told_whoever_reads_it(release, tmp_path):
    made = make_release(tmp_path / "release", num_images=40)
    for name in ("00000.tar", "00001.tar"):
        (made / name).write_bytes(b"")
    code, _, err = run(small(made, tmp_path / "run", processes=2))
    assert code == 2
    assert "ends before byte" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run/model.json").exists()
    assert "recipe_digest" in json.loads((tmp_path / "run/run.json").read_text())
