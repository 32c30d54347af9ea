import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.training.commands import assert_equal, finish, reached, run, start, wait_for
from tests.training.small import make_release, settings
from training.checkpoint import newest_first, step_of

STEPS = {"steps": 60}
OFTEN = {"checkpoint_every_steps": 4, "log_every_steps": 1, "workers": 2}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("data") / "release")


@pytest.fixture(scope="module")
def undisturbed(release, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "whole"
    code, _, err = run(settings(release, output, STEPS))
    assert (code, err) == (0, "")
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_leaves_and_loses_nothing(release, undisturbed, tmp_path, number):
    output = tmp_path / "run"
    rare = OFTEN | {"checkpoint_every_steps": 1000}
    process = start(settings(release, output, STEPS, rare), start_new_session=True)
    wait_for(lambda: reached(output, 10), process)
    os.killpg(process.pid, number)  # as a scheduler does: the loader's workers are sent it too
    code, out, err = finish(process)
    assert (code, err) == (75, "")
    saved = step_of(newest_first(output / "checkpoints")[0])
    assert saved >= 10
    assert out.splitlines()[-1].startswith(f"stopped at step {saved} by {signal.Signals(number).name}, all saved")
    code, out, err = run(settings(release, output, STEPS, rare))
    assert (code, err) == (0, "")
    assert f"from step {saved}," in out
    assert_equal(output, undisturbed)


def test_whatever_is_killed_whenever_is_gone_no_further_than_its_last_checkpoint(release, undisturbed, tmp_path):
    output, rng = tmp_path / "run", random.Random(0)
    every = OFTEN | {"checkpoint_every_steps": 1}  # so that most kills are during a save
    kills, before = 0, 0
    while kills < 4:
        process = start(settings(release, output, STEPS, every), start_new_session=True)
        goal = before + rng.randint(3, 12)
        wait_for(lambda goal=goal: reached(output, goal), process)
        if process.poll() is None:
            try:
                process.wait(rng.uniform(0, 0.05))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        _, out, _ = finish(process)
        assert f"from step {before}," in out
        checkpoints = [step_of(path) for path in newest_first(output / "checkpoints")]
        assert max(checkpoints) >= before
        before, kills = max(checkpoints), kills + 1
    code, out, err = run(settings(release, output, STEPS, every))
    assert (code, err) == (0, "")
    assert f"from step {before}," in out
    assert_equal(output, undisturbed)
    left = {path.name for path in (output / "checkpoints").iterdir()}
    assert left == {"step_00000060", "step_00000059"}
