import json
import os
import shutil
from pathlib import Path

import pytest

from training import run_folder
from training.run_folder import claim, is_finished

OLD, NEW = {"recipe_digest": "old", "release": "r"}, {"recipe_digest": "new", "release": "r"}
CONTENTS = ("model.json", "metrics.jsonl", "teacher_backbone.safetensors", "student_backbone.safetensors")


class KilledError(BaseException):
    """Not an Exception, as a kill is not: nothing handles it."""


def finished(folder: Path) -> None:
    """What a finished run of the old identity leaves."""
    claim(folder, OLD, "refuse")
    (folder / "checkpoints").mkdir()
    for number in (1, 2):
        (folder / f"checkpoints/step_{number}.pt").write_text("old")
    for name in CONTENTS:
        (folder / name).write_text("old")


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def killed_after(steps: int, folder: Path, monkeypatch) -> bool:
    """Claim for the new identity and die after this many removals or writes; False where there were not that many."""
    count = 0

    def counted(change):
        def wrapper(*arguments, **options):
            nonlocal count
            if count == steps:
                raise KilledError
            count += 1
            return change(*arguments, **options)

        return wrapper

    with monkeypatch.context() as patch:
        for name in ("unlink", "rmdir"):
            patch.setattr(os, name, counted(getattr(os, name)))
        patch.setattr(run_folder, "write_atomically", counted(run_folder.write_atomically))
        try:
            claim(folder, NEW, "restart")
        except KilledError:
            return True
    return False


def test_a_claim_killed_anywhere_leaves_nothing_to_adopt(tmp_path, monkeypatch):
    for steps in range(50):
        folder = tmp_path / str(steps)
        folder.mkdir()
        finished(folder)
        if not killed_after(steps, folder, monkeypatch):
            break
        if json.loads((folder / "run.json").read_text()) == NEW:
            assert left(folder) == {"run.json"}
            continue
        if steps:
            assert not is_finished(folder)
        with pytest.raises(ValueError, match="another recipe_digest"):
            claim(folder, NEW, "refuse")
        if "metrics.jsonl" not in left(folder):  # the old run, started again, never resumes beyond its metrics
            assert not any(name.startswith("checkpoints") for name in left(folder))
        assert claim(folder, NEW, "restart")
        assert left(folder) == {"run.json"}
        assert json.loads((folder / "run.json").read_text()) == NEW
    assert 8 <= steps < 50


@pytest.mark.parametrize("identity", [None, "", "{", "[]", "\xff"])
@pytest.mark.parametrize("content", ["checkpoints", "model.json"])
def test_contents_without_a_readable_identity_are_not_adopted(tmp_path, identity, content):
    finished(tmp_path)
    for name in {"checkpoints", *CONTENTS} - {content}:
        shutil.rmtree(tmp_path / name) if name == "checkpoints" else (tmp_path / name).unlink()
    (tmp_path / "run.json").unlink()
    if identity is not None:
        (tmp_path / "run.json").write_text(identity, encoding="latin-1")
    with pytest.raises(ValueError, match=r"no run\.json says of what.*if_changed=restart"):
        claim(tmp_path, OLD, "refuse")
    assert content in {path.name for path in tmp_path.iterdir()}
    assert claim(tmp_path, OLD, "restart")
    assert left(tmp_path) == {"run.json"}


def test_its_own_folder_and_an_empty_one_are_claimed_as_they_are(tmp_path):
    assert not claim(tmp_path, OLD, "refuse")
    (tmp_path / "checkpoints").mkdir()
    assert not claim(tmp_path, OLD, "refuse")
    assert left(tmp_path) == {"run.json"}
