import pytest
import torch

from training import checkpoint


def load(folder):
    said = []
    return checkpoint.load_newest(folder, said.append), said


def test_the_newest_few_are_kept_and_the_newest_is_loaded(tmp_path):
    for step in (9, 10, 100, 101):
        checkpoint.save(tmp_path, step, {"step": step, "x": torch.arange(step)}, keep=2)
    assert [path.name[:13] for path in checkpoint.newest_first(tmp_path)] == ["step_00000101", "step_00000100"]
    state, said = load(tmp_path)
    assert (state["step"], said) == (101, [])
    assert torch.equal(state["x"], torch.arange(101))


def test_nothing_half_written_is_seen(tmp_path):
    assert load(tmp_path / "absent") == (None, [])
    path = checkpoint.save(tmp_path, 1, {"step": 1}, keep=2)
    (tmp_path / f".{path.name}.tmp").write_bytes(b"half")
    (tmp_path / "step_00000002.pt").write_bytes(b"not ours")
    assert load(tmp_path)[0] == {"step": 1}


@pytest.mark.parametrize("damage", [b"", b"junk"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path, damage):
    checkpoint.save(tmp_path, 1, {"step": 1}, keep=2)
    newest = checkpoint.save(tmp_path, 2, {"step": 2}, keep=2)
    newest.write_bytes(damage)
    state, said = load(tmp_path)
    assert state == {"step": 1}
    assert [str(newest) in line for line in said] == [True]


def test_code_in_a_checkpoint_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    checkpoint.save(tmp_path, 1, {"step": Evil()}, keep=1)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        load(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "model.json"
    checkpoint.write_atomically(path, b"old")
    monkeypatch.setattr(checkpoint.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
