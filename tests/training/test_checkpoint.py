import resource
import shutil

import pytest
import torch

from training.atomic import write_atomically
from training.checkpoint import Checkpoints, newest_first
from training.processes import ALONE


def state(value: float) -> dict[str, torch.Tensor]:
    return {
        "matrix": torch.full((300, 100), value),
        "half": torch.full((5,), value, dtype=torch.bfloat16),
        "count": torch.full((1,), int(value)),
        "empty": torch.zeros(0),
    }


def saved(folder, *steps: int, keep: int = 2) -> None:
    checkpoints = Checkpoints(folder, keep, ALONE)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.wait()


def load(folder) -> tuple[int | None, list[str]]:
    """The newest step, once its tensors were found to be those of that step; and what was said on the way."""
    said: list[str] = []
    checkpoints = Checkpoints(folder, 2, ALONE)
    step = checkpoints.newest(said.append)
    if step is not None:
        found = state(-1)
        checkpoints.load(step, found)
        assert all(torch.equal(found[name], value) for name, value in state(step).items())
    return step, said


def test_the_newest_few_are_kept_and_the_newest_is_loaded(tmp_path):
    saved(tmp_path, 9, 10, 100, 123_456_789)
    assert [path.name for path in newest_first(tmp_path)] == ["step_123456789", "step_00000100"]
    assert load(tmp_path) == (123_456_789, [])


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    checkpoints, live = Checkpoints(tmp_path, 2, ALONE), state(1)
    checkpoints.save(1, live)
    for tensor in live.values():
        tensor.zero_()
    checkpoints.wait()
    assert load(tmp_path) == (1, [])


def test_nothing_half_written_is_seen_and_rests_go(tmp_path):
    assert load(tmp_path / "absent") == (None, [])
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "step_00000001", tmp_path / ".step_00000002")  # killed before the rename
    shutil.copytree(tmp_path / "step_00000001", tmp_path / ".old_step_00000000")  # killed while it was removed
    (tmp_path / "step_00000003.pt").write_bytes(b"not ours")
    assert load(tmp_path) == (1, [])
    assert {path.name for path in tmp_path.iterdir()} == {"step_00000001", "step_00000003.pt"}


def damage_a_bit(folder) -> None:
    file = next(folder.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "bit": damage_a_bit,
    "short": lambda folder: next(folder.glob("*.safetensors")).write_bytes(b""),
    "file lost": lambda folder: next(folder.glob("*.safetensors")).unlink(),
    "file more": lambda folder: shutil.copy(next(folder.glob("*.safetensors")), folder / "other.safetensors"),
    "no list": lambda folder: (folder / "whole.json").unlink(),
    "list broken": lambda folder: (folder / "whole.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_and_named(tmp_path, damage):
    saved(tmp_path, 1, 2)
    DAMAGES[damage](tmp_path / "step_00000002")
    step, said = load(tmp_path)
    assert step == 1
    assert [f"{tmp_path / 'step_00000002'} is damaged" in line for line in said] == [True]


def test_a_run_that_went_back_replaces_what_was_damaged(tmp_path):
    saved(tmp_path, 1, 2, 3, keep=3)
    for step in (2, 3):
        DAMAGES["short"](tmp_path / f"step_0000000{step}")
    checkpoints = Checkpoints(tmp_path, 2, ALONE)
    assert checkpoints.newest(lambda _: None) == 1
    checkpoints.save(2, state(2))
    checkpoints.wait()
    assert [path.name for path in newest_first(tmp_path)] == ["step_00000002", "step_00000001"]
    assert load(tmp_path) == (2, [])


def test_code_in_a_checkpoint_cannot_be(tmp_path):
    saved(tmp_path, 1)
    assert {path.suffix for path in (tmp_path / "step_00000001").iterdir()} == {".safetensors", ".json"}


def test_a_disk_without_room_is_told_and_costs_no_older_checkpoint(tmp_path):
    saved(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path, 1, ALONE)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))  # bytes a file; what a full disk says comes the same way
    try:
        checkpoints.save(2, state(2))
        with pytest.raises(OSError, match="File too large"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert load(tmp_path) == (1, [])


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "model.json"
    write_atomically(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(path, b"new and long")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
