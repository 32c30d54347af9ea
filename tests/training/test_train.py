import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training import commands
from tests.training.small import make_release, settings
from training import launch
from training.checkpoint import newest_first
from training.data.loader import Batches
from training.data.release import Release
from training.pretrained import load_backbone
from training.schedules import at
from training.train import Trainer, train


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    return make_release(tmp_path_factory.mktemp("data") / "release")


@pytest.fixture(scope="module")
def finished(release, tmp_path_factory) -> Path:
    """An undisturbed run."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    train(settings(release, output))
    return output


def rows(output: Path) -> list[dict]:
    """Metrics without the clock, those of the health panel among them."""
    return commands.rows(output, health=True)


def stop_after(monkeypatch, steps: int) -> None:
    """Let the machine fail in the step after ``steps``."""
    whole = Trainer.update

    def update(self, batch, now):
        if self.step == steps:
            raise KeyboardInterrupt
        return whole(self, batch, now)

    monkeypatch.setattr(Trainer, "update", update)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(release, finished, tmp_path, monkeypatch, workers):
    with monkeypatch.context() as patch:
        stop_after(patch, 5)  # two steps past the checkpoint of step 3
        with pytest.raises(KeyboardInterrupt):
            train(settings(release, tmp_path, runtime={"workers": workers}))
    assert not (tmp_path / "model.json").exists()
    train(settings(release, tmp_path, runtime={"workers": workers, "log_every_steps": 1}))
    assert rows(tmp_path) == rows(finished)
    for name in ("model.json", "teacher_backbone.safetensors", "student_backbone.safetensors"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_metrics_hold_every_step_once_and_the_loss_that_is_optimised(finished):
    found = rows(finished)
    assert [row["step"] for row in found] == [1, 2, 3, 4, 5, 6]
    for row in found:
        terms = [value for key, value in row.items() if key.startswith("loss_")]
        assert len(terms) == 4
        assert row["loss"] == pytest.approx(sum(terms), rel=1e-6)
        assert {"lr", "teacher_temp", "momentum", "weight_decay", "grad_norm_backbone"} <= set(row)


def test_the_logged_loss_is_the_one_whose_gradient_is_taken(release, tmp_path):
    trainer, batch = fresh(release, tmp_path)
    batch = batch._replace(masks=torch.zeros_like(batch.masks), mask_indices=batch.mask_indices[:0])
    batch = batch._replace(mask_weights=batch.mask_weights[:0])
    student = trainer.model.student
    torch.manual_seed(0)  # the same stochastic depth twice
    (losses,), _ = trainer.model.losses([batch], 0.07)
    losses["loss"].backward()
    whole = student["dino_head"].last_layer.weight_v.grad.clone()
    student.zero_grad()
    torch.manual_seed(0)
    (losses,), _ = trainer.model.losses([batch], 0.07)
    sum(value for key, value in losses.items() if key.startswith("loss_")).backward()
    torch.testing.assert_close(student["dino_head"].last_layer.weight_v.grad, whole)


def test_a_finished_run_does_nothing(release, finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name not in (".lock", "run.json")}
    train(settings(release, finished))
    assert "already finished" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_lost_weights_are_exported_again(release, finished, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(finished, output)
    (output / "teacher_backbone.safetensors").write_bytes(b"damaged")
    train(settings(release, output))
    assert (output / "teacher_backbone.safetensors").read_bytes() == (
        finished / "teacher_backbone.safetensors"
    ).read_bytes()


def test_the_exported_teacher_loads_and_is_verified(finished, tmp_path):
    model, info = load_backbone(finished)
    assert load_backbone(finished / "model.json")[1] == info
    assert (info["steps"], info["input"]["size"], info["release"]["merkle_root"]) == (6, 32, "ab" * 32)
    assert set(load_file(finished / "teacher_backbone.safetensors")) == set(model.state_dict())
    output = tmp_path / "copy"
    shutil.copytree(finished, output)
    weights = bytearray((output / "teacher_backbone.safetensors").read_bytes())
    weights[-1] ^= 1
    (output / "teacher_backbone.safetensors").write_bytes(weights)
    with pytest.raises(ValueError, match="SHA-256"):
        load_backbone(output)
    with pytest.raises(ValueError, match="no such file"):
        load_backbone(tmp_path)
    (tmp_path / "model.json").write_text('{"architecture": {}}')
    with pytest.raises(ValueError, match=r"not a model\.json"):
        load_backbone(tmp_path)


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(release, finished, tmp_path, capsys):
    output = tmp_path / "copy"
    shutil.copytree(finished, output)
    (output / "model.json").unlink()
    newest, before = newest_first(output / "checkpoints")
    assert [path.name for path in (newest, before)] == ["step_00000006", "step_00000003"]
    file = next(newest.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    train(settings(release, output))
    said = capsys.readouterr().out
    assert f"{newest} is damaged" in said
    assert "from step 3" in said
    assert rows(output) == rows(finished)
    assert (output / "model.json").read_bytes() == (finished / "model.json").read_bytes()


def test_another_recipe_or_release_is_refused_or_starts_over(release, finished, tmp_path):
    output = tmp_path / "copy"
    shutil.copytree(finished, output)
    other = {"steps": 2}
    with pytest.raises(ValueError, match="another recipe, recipe_digest"):
        train(settings(release, output, other))
    smaller = make_release(tmp_path / "smaller", num_images=10)
    with pytest.raises(ValueError, match="another release"):
        train(settings(smaller, output))
    train(settings(smaller, output, other, {"if_changed": "restart"}))
    assert [row["step"] for row in rows(output)] == [1, 2]
    assert load_backbone(output)[1]["release"]["images"] == 10


def test_two_processes_never_write_one_folder(release, tmp_path):
    hold = "import sys; from pathlib import Path; from training.run_folder import locked\n"
    hold += f"with locked(Path({str(tmp_path)!r})): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"process {other.pid} is training here"):
            train(settings(release, tmp_path))
        other.kill()
    train(settings(release, tmp_path, {"steps": 2}))  # a stale lock vanished with its process


def fresh(release: Path, output: Path, recipe: dict | None = None):
    made = settings(release, output, recipe).recipe
    return Trainer(made), Batches(Release(release), made)[0]


@pytest.mark.parametrize("fault", ["loss", "one part", "gradient"])
@pytest.mark.parametrize("losses", [{"centering": "softmax"}, {"queue": 6}])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(release, tmp_path, fault, losses):
    trainer, batch = fresh(release, tmp_path, {"losses": losses})
    trainer.update(batch, at(trainer.recipe, 0))
    before = {key: value.clone() for key, value in trainer.state().items()}
    if fault == "gradient":
        bias = trainer.model.student["dino_head"].mlp[0].bias
        hook = bias.register_hook(lambda gradient: gradient / 0)
        scalars = trainer.update(batch, at(trainer.recipe, 1))
        hook.remove()
        assert scalars["loss"].isfinite()
    else:
        trainer.accumulate = 2 if fault == "one part" else 1
        scalars = trainer.update(poisoned(batch), at(trainer.recipe, 1))
        assert scalars["loss"].isnan()
    assert int(scalars["nonfinite_steps"]) == 1
    after = trainer.state()
    assert {key for key, value in after.items() if not torch.equal(value, before[key])} == {
        "nonfinite",
        "nonfinite_in_a_row",
    }
    trainer.update(batch, at(trainer.recipe, 2))
    assert (int(trainer.nonfinite), int(trainer.nonfinite_in_a_row)) == (1, 0)
    moved = {key for key, value in trainer.state().items() if not torch.equal(value, before[key])}
    remembered = {"model.cls_queue"} if "queue" in losses else {"model.cls_center", "model.patch_center"}
    weights = {f"model.{name}.backbone.norm.weight" for name in ("student", "teacher")}
    assert weights | remembered | {"optimiser.backbone.norm.weight.exp_avg"} <= moved


def poisoned(batch):
    """With a NaN in one patch of the last masked crop."""
    weights = batch.mask_weights.clone()
    weights[-1] = torch.nan
    return batch._replace(mask_weights=weights)


def poison_steps(monkeypatch, steps) -> None:
    sound = Batches.__getitem__
    monkeypatch.setattr(
        Batches, "__getitem__", lambda self, step: poisoned(sound(self, step)) if step in steps else sound(self, step)
    )


def test_a_few_steps_that_are_not_finite_are_counted_and_passed(release, tmp_path, monkeypatch):
    poison_steps(monkeypatch, (1, 2, 4))
    train(settings(release, tmp_path, runtime={"max_nonfinite_steps": 3, "log_every_steps": 1}))
    found = rows(tmp_path)
    assert [row["nonfinite_steps"] for row in found] == [0, 1, 2, 2, 3, 3]
    assert [row["loss"] is None for row in found] == [False, True, True, False, True, False]
    assert not (tmp_path / "nonfinite").exists()


def test_too_many_steps_that_are_not_finite_stop_the_run_and_leave_the_batch(release, tmp_path, monkeypatch):
    poison_steps(monkeypatch, range(1, 6))
    made = settings(release, tmp_path, runtime={"max_nonfinite_steps": 3, "accumulate": 2, "log_every_steps": 1})
    with pytest.raises(ValueError, match=r"step 4: 3 updates in a row were not finite .*step_00000004_process_0"):
        train(made)
    assert rows(tmp_path)[-1]["loss"] is None
    kept = load_file(tmp_path / "nonfinite/step_00000004_process_0.safetensors")
    batch = Batches(Release(release), made.recipe)[3]
    assert set(kept) == set(batch._fields)
    assert all(torch.equal(kept[name].nan_to_num(), value.nan_to_num()) for name, value in batch._asdict().items())
    assert kept["mask_weights"].isnan().sum() == 1
    assert [path.name for path in newest_first(tmp_path / "checkpoints")] == ["step_00000003"]


@pytest.mark.parametrize(
    ("losses", "heads", "terms"),
    [
        ({"dino_weight": 0.0}, {}, {"ibot", "koleo"}),
        ({"ibot_weight": 0.0}, {}, {"dino_local", "dino_global", "koleo"}),
        ({"koleo_weight": 0.0}, {"ibot": True}, {"dino_local", "dino_global", "ibot"}),
        ({"dino_weight": 0.0, "centering": "softmax"}, {"ibot": True}, {"ibot", "koleo"}),
    ],
)
def test_every_part_of_the_objective_works_alone(release, tmp_path, losses, heads, terms):
    head = {"prototypes": 32, "hidden": 32, "bottleneck": 16}
    recipe = {"losses": losses, "heads": {"dino": head, **dict.fromkeys(heads, head)}}
    trainer, batch = fresh(release, tmp_path, recipe)
    scalars = trainer.update(batch, at(trainer.recipe, 3))
    assert {key.removeprefix("loss_") for key in scalars if key.startswith("loss_")} == terms
    assert int(scalars["nonfinite_steps"]) == 0


def test_without_local_crops_there_are_two_pairs(release, tmp_path):
    crops = {"global_size": 32, "local_size": 16, "num_local": 0}
    trainer, batch = fresh(release, tmp_path, {"crops": crops})
    with torch.no_grad():
        trainer.model.student["dino_head"].last_layer.weight_g.zero_()  # every prototype alike
    scalars = trainer.update(batch, at(trainer.recipe, 3))
    assert "loss_dino_local" not in scalars
    assert scalars["loss_dino_global"].item() == pytest.approx(torch.tensor(32.0).log().item(), rel=1e-5)


def test_every_student_parameter_learns(release, tmp_path):
    trainer, batch = fresh(release, tmp_path, {"heads": {"dino": {"prototypes": 32}, "ibot": {"prototypes": 16}}})
    (losses,), _ = trainer.model.losses([batch], 0.07)
    losses["loss"].backward()
    still = {name for name, p in trainer.model.student.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()
    assert all(p.grad is None for p in trainer.model.teacher.parameters())


def test_the_teacher_moves_by_one_minus_momentum(release, tmp_path):
    trainer, batch = fresh(release, tmp_path)
    old = {n: p.clone() for n, p in trainer.model.teacher.named_parameters()}
    now = at(trainer.recipe, 3)
    trainer.update(batch, now)
    new = dict(trainer.model.student.named_parameters())
    for name, p in trainer.model.teacher.named_parameters():
        torch.testing.assert_close(p, now.momentum * old[name] + (1 - now.momentum) * new[name])


def test_the_student_learns_a_teacher_that_stands_still(release, tmp_path):
    still = {"steps": 40, "teacher": {"momentum": (1.0, 1.0)}, "losses": {"koleo_weight": 0.0}}
    trainer, batch = fresh(release, tmp_path, still)
    values = [float(trainer.update(batch, at(trainer.recipe, step))["loss"]) for step in range(30)]
    assert values[-1] < 0.7 * values[1]


def test_srun_around_the_launcher_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["training.launch", "conf/training/demo.yaml"])
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(ValueError, match=r"SLURM_NTASKS=4: srun would start as many runs"):
        launch.main()


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "SLURM_NTASKS")}
    command = [sys.executable, "-m", "training.launch", "conf/training/demo.yaml", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_the_command_trains_through_submitit_and_says_when_it_is_finished(release, tmp_path):
    short = ["recipe.steps=1", "recipe.batch_size_global=2"]
    short += ["recipe.optimiser.warmup_steps=0", "recipe.optimiser.freeze_last_layer_steps=0"]
    common = [*short, f"data.release={release}", f"output={tmp_path / 'run'}", "runtime.workers=0"]
    first = run(*common, "runtime.launcher=submitit", "runtime.slurm.cluster=local")
    assert (first.returncode, first.stderr) == (0, "")
    second = run(*common)
    assert second.returncode == 0
    assert "already finished: 1 steps" in second.stdout


def test_an_empty_release_is_one_sentence_and_exit_code_2(tmp_path):
    (tmp_path / "empty").mkdir()
    done = run(f"data.release={tmp_path / 'empty'}", f"output={tmp_path / 'run'}")
    assert done.returncode == 2
    assert "there is no image in it" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
