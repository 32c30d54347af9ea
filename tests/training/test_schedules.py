import pytest

from training.config import Recipe
from training.schedules import at, cosine, linear

RECIPE = Recipe.model_validate(
    {
        "steps": 1000,
        "batch_size_global": 256,
        "optimiser": {
            "base_lr": 4e-3,
            "warmup_steps": 100,
            "freeze_last_layer_steps": 10,
            "weight_decay": (0.04, 0.4),
        },
        "teacher": {"momentum": (0.992, 1.0), "temp": (0.04, 0.07), "temp_warmup_steps": 300},
    }
)


def test_known_points_of_every_schedule():
    first, peak, middle, last = at(RECIPE, 0), at(RECIPE, 100), at(RECIPE, 550), at(RECIPE, 999)
    assert first == pytest.approx((0, 0, 0.04, 0.992, 0.04))
    assert peak.lr == pytest.approx(2e-3)  # 4e-3 x sqrt(256 / 1024)
    assert middle.lr == pytest.approx((2e-3 + 1e-6) / 2)
    assert last.lr == pytest.approx(1e-6, abs=1e-7)
    assert (last.momentum, last.weight_decay) == (pytest.approx(1.0, abs=1e-5), pytest.approx(0.4, abs=1e-5))
    assert at(RECIPE, 299).teacher_temp == at(RECIPE, 999).teacher_temp == pytest.approx(0.07)


def test_the_last_layer_waits():
    assert (at(RECIPE, 9).last_layer_lr, at(RECIPE, 10).last_layer_lr) == (0.0, at(RECIPE, 10).lr)


def test_lines_and_cosines_reach_their_ends():
    assert [linear(0, 1, step, 3) for step in range(4)] == [0, 0.5, 1, 1]
    assert linear(0.04, 0.07, 0, 0) == 0.07
    assert [cosine(2, 0, step, 4) for step in (0, 2, 4)] == [2, pytest.approx(1), 0]
