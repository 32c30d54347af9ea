"""The commands as a user types them: one stage by itself, and one clear sentence for each mistake."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


def call(*command, **env):
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run(*arguments, **env):
    return call(sys.executable, "-m", "spark_jobs.run", "conf/curation/own.yaml", *arguments, **env)


def places(folder):
    return f"store={folder / 'store'}", f"release={folder / 'release'}"


def refusal(result):
    """The one sentence a failing command ends with."""
    assert result.returncode == 2, result
    said = result.stderr or result.stdout  # spark-submit sends both to its standard output
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) == 1, said
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        Image.effect_noise((96, 96), 80 + 30 * i).convert("RGB").save(folder / f"{i}.png")
    return folder


@pytest.mark.spark
def test_one_stage_by_itself_on_a_finished_store_does_nothing_and_says_so(finished, pocket):
    overrides = pocket.overrides(finished.release.parent)
    result = call(BIN / "spark-submit", "spark_jobs/dedup.py", "conf/curation/demo.yaml", *overrides)
    assert result.returncode == 0, result.stderr
    assert "nothing to do" in result.stdout
    assert result.stderr == "", "Spark's own noise stays out of the terminal"


@pytest.mark.spark
def test_one_stage_by_itself_runs_when_the_one_before_has_run(tmp_path, pictures):
    where = (*places(tmp_path), f"sources.images.mine={pictures}")
    first = call(BIN / "spark-submit", "spark_jobs/index.py", "conf/curation/own.yaml", *where)
    assert "extract_links has not run there" in refusal(first)
    assert run(*where, "--until", "download").returncode == 0
    second = call(BIN / "spark-submit", "spark_jobs/index.py", "conf/curation/own.yaml", *where)
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines()[1].split()[:4] == ["index", "3", "3", "0"]
    assert second.stderr == ""


def test_an_unknown_key_names_the_nearest(tmp_path):
    assert "did you mean 'recipe.dedup.threshold'?" in refusal(run(*places(tmp_path), "recipe.dedup.treshold=0.5"))


def test_options_may_stand_anywhere_and_no_source_is_named(tmp_path):
    said = refusal(run("--plan", *places(tmp_path)))
    assert "no sources; pass sources.images.NAME=FOLDER" in said


def test_a_missing_path_is_named(tmp_path):
    said = refusal(run(*places(tmp_path), f"sources.images.mine={tmp_path / 'nowhere'}"))
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in said


def test_an_empty_folder_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    said = refusal(run(*places(tmp_path), f"sources.images.mine={tmp_path / 'empty'}"))
    assert f"{tmp_path / 'empty'}: the folder is empty" in said


def test_a_missing_java_is_one_sentence(tmp_path, pictures):
    (tmp_path / "empty").mkdir()
    hide = f"mount --bind {tmp_path / 'empty'} /usr/lib/jvm"
    if call("unshare", "--mount", "sh", "-c", hide).returncode:
        pytest.skip("hiding this machine's Java needs root and a mount namespace")
    command = [sys.executable, "-m", "spark_jobs.run", "conf/curation/own.yaml", *places(tmp_path)]
    quoted = shlex.join([str(part) for part in [*command, f"sources.images.mine={pictures}"]])
    environ = f"env -u JAVA_HOME PATH={tmp_path}"
    result = call("unshare", "--mount", "sh", "-c", f"{hide} && {environ} {quoted}")
    said = result.stderr.splitlines()
    assert result.returncode == 2
    assert len(said) == 1, result.stderr
    assert "Java 17" in said[0]


def test_two_writers_of_one_store_are_refused(tmp_path, pictures):
    import fcntl

    (tmp_path / "store").mkdir()
    with (tmp_path / "store" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another process is writing this store" in refusal(
            run(*places(tmp_path), f"sources.images.mine={pictures}")
        )


@pytest.mark.spark
def test_a_full_disk_is_one_sentence_and_the_same_command_continues(tmp_path, pictures):
    disk = tmp_path / "disk"
    disk.mkdir()
    size = "size=400k"
    if call("mount", "-t", "tmpfs", "-o", size, "tmpfs", disk).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        for i in range(20):
            Image.effect_noise((128, 128), 20 + 10 * i).convert("RGB").save(pictures / f"more-{i}.png")
        where = (*places(disk), f"sources.images.mine={pictures}")
        said = refusal(run(*where))
        assert "no space left on device" in said.lower()
        assert call("mount", "-o", "remount,size=50m", disk).returncode == 0
        assert run(*where).returncode == 0
        manifest = json.loads((disk / "release" / "manifest.json").read_text())
        assert manifest["runs"]["index"]["kept"] == 23  # noise looks all alike: deduplication keeps little of it
        assert manifest["images"] > 0
    finally:
        call("umount", disk)
        shutil.rmtree(disk, ignore_errors=True)
