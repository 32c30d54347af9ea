import os
import subprocess
from pathlib import Path

import pytest

from tests.training.commands import assert_equal, finish, reached, rows, run, start, wait_for
from tests.training.real_slurm import missing, slurm
from tests.training.small import make_release, settings

WHOLE = {"arch": "vit_nano", "patch_size": 8, "image_size": 32}
OFTEN = {"checkpoint_every_steps": 1000, "log_every_steps": 1, "launcher": "submitit"}


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("data") / "release")


@pytest.mark.slow
def test_a_job_out_of_time_saves_and_is_started_again(release, tmp_path):
    """submitit's local executor signals ahead of its time limit (a minute, its unit) and starts the job again."""
    recipe = {"steps": 600, "model": WHOLE}
    code, _, err = run(settings(release, tmp_path / "whole", recipe))
    assert (code, err) == (0, "")
    local = {"cluster": "local", "timeout_min": 1, "signal_delay_s": 45}
    code, out, err = run(settings(release, tmp_path / "job", recipe, OFTEN | {"slurm": local}))
    logs = "".join(path.read_text() for path in (tmp_path / "job/jobs").glob("*_log.out"))
    assert (code, err) == (0, ""), logs
    assert "finished" in out
    assert "by SIGUSR2, all saved" in logs
    assert_equal(tmp_path / "whole", tmp_path / "job")


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_a_slurm_job_of_two_tasks_is_preempted_queued_again_and_ends(release, tmp_path):
    output = tmp_path / "job"
    made = settings(
        release,
        output,
        {"steps": 150, "model": WHOLE},
        OFTEN | {"processes": 2, "slurm": {"cpus_per_task": 1, "timeout_min": 10}},
    )
    with slurm() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        launched = start(made)
        code, out, err = finish(launched)
        assert (code, err) == (0, "")
        job = out.split()[1].rstrip(":")

        def said(*command: str) -> str:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        def logs() -> str:
            return "".join(path.read_text() for path in (output / "jobs").glob("*_log.*"))

        with subprocess.Popen(["sleep", "240"]) as clock:
            wait_for(lambda: reached(output, 20), clock, 120)
            assert reached(output, 20), logs() + said("squeue")
            said("scancel", "--signal=USR2", job)
            wait_for(lambda: "by SIGUSR2, all saved" in logs(), clock, 60)
            wait_for(lambda: (output / "model.json").exists(), clock, 120)
            clock.kill()
        assert "Restarts=1" in said("scontrol", "show", "job", job)
        assert (output / "model.json").exists(), logs()
    assert [row["step"] for row in rows(output)] == list(range(1, 151))
    assert "from step 0" in logs()
    assert os.environ.get("SLURM_CONF") is None
