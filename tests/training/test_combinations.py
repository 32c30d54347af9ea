"""Every combination of the switches works, or is refused with a sentence that names the key."""

import copy
import random
from itertools import combinations, product

import pytest
import torch
from pydantic import ValidationError

from tests.training.small import make_release, settings
from tests.training.test_dinov2 import plain
from training import train
from training.config import Recipe
from training.data.loader import Batches
from training.data.release import Release
from training.schedules import at

HEAD = {"prototypes": 24, "hidden": 16, "bottleneck": 8}
SWITCHES = {
    "dino_weight": (1.0, 0.0),
    "ibot_weight": (1.0, 0.0),
    "koleo_weight": (0.1, 0.0),
    "untied": (False, True),
    "centering": ("sinkhorn", "softmax"),
    "queue": (0, 6),
    "num_local": (2, 0),
    "registers": (0, 2),
    "ffn": ("mlp", "swiglu"),
    "exact_count": (False, True),
    "augment": ("worker", "device"),
    "drop_path": (0.0, 0.3),
    "precision": ("fp32", "bf16"),
    "accumulate": (1, 2),
}
Chosen = dict[str, object]


def values(chosen: Chosen) -> dict:
    """The sections of a recipe."""
    return {
        "precision": chosen["precision"],
        "model": {
            "arch": "vit_nano",
            "patch_size": 8,
            "image_size": 32,
            "layer_scale": 1.0,
            "drop_path": chosen["drop_path"],
            "ffn": chosen["ffn"],
            "num_register_tokens": chosen["registers"],
        },
        "heads": {"dino": HEAD, "ibot": HEAD if chosen["untied"] else None},
        "crops": {"global_size": 32, "local_size": 16, "num_local": chosen["num_local"], "augment": chosen["augment"]},
        "masking": {"exact_count": chosen["exact_count"]},
        "losses": {key: chosen[key] for key in ("dino_weight", "ibot_weight", "koleo_weight", "centering", "queue")},
    }


def reason(chosen: Chosen) -> str | None:
    """Why a combination makes no sense, as the refusal says it."""
    if not chosen["dino_weight"] and not chosen["ibot_weight"]:
        return "dino_weight and ibot_weight are both 0"
    if chosen["queue"] and chosen["centering"] == "softmax":
        return "queue: softmax centering"
    if chosen["queue"] and not chosen["dino_weight"]:
        return "queue holds class tokens, but dino_weight is 0"
    if chosen["untied"] and not chosen["ibot_weight"]:
        return "heads.ibot is set but losses.ibot_weight is 0"
    return None


def every() -> list[Chosen]:
    return [dict(zip(SWITCHES, one, strict=True)) for one in product(*SWITCHES.values())]


def covering() -> list[Chosen]:
    """Combinations that work, with every three values that can go together together in one of them at least."""
    rng, left = random.Random(0), [one for one in every() if reason(one) is None]
    triples = [set(combinations(one.items(), 3)) for one in left]
    missing, found = set().union(*triples), []
    while missing:
        best = max(rng.sample(range(len(left)), 60), key=lambda i: len(triples[i] & missing))
        if triples[best] & missing:
            found.append(left[best])
            missing -= triples[best]
    return found


COVERING = covering()


def test_what_makes_no_sense_is_refused_with_the_reason_and_nothing_else_is():
    seen = set()
    for chosen in every():
        if (chosen["accumulate"], chosen["ffn"], chosen["augment"]) == (1, "mlp", "worker"):  # no rule asks about these
            seen.add(expected := reason(chosen))
            recipe = {"steps": 1, "batch_size_global": 4, **values(chosen)}
            if expected is None:
                Recipe.model_validate(recipe)
            else:
                with pytest.raises(ValidationError, match=expected):
                    Recipe.model_validate(recipe)
    assert len(seen) == 5


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return Release(make_release(tmp_path_factory.mktemp("data") / "release", num_images=8))


@pytest.mark.parametrize("chosen", COVERING, ids=map(str, range(len(COVERING))))
def test_two_updates(release, chosen, monkeypatch, tmp_path):
    recipe = settings(release.root, tmp_path, values(chosen)).recipe
    trainer, data = train.Trainer(recipe, accumulate=chosen["accumulate"]), Batches(release, recipe)
    before = copy.deepcopy(trainer.model)
    gradients: list[dict[str, torch.Tensor]] = []
    clip = train.clip_gradients

    def spy(student, norm):
        gradients.append({name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None})
        return clip(student, norm)

    monkeypatch.setattr(train, "clip_gradients", spy)
    rows = [trainer.update(data[step], at(recipe, step)) for step in range(2)]
    for row, found in zip(rows, gradients, strict=True):
        assert row["loss"].isfinite()
        assert row["nonfinite_steps"] == 0
        terms = {name: value for name, value in row.items() if name.startswith("loss_")}
        assert set(terms) == terms_of(chosen)
        torch.testing.assert_close(row["loss"], torch.stack(list(terms.values())).sum())
        still = {
            name for name, _ in trainer.model.student.named_parameters() if not found.get(name, torch.zeros(1)).any()
        }
        assert still == set()

    loss, expected = evaluated(before, data[0].to(torch.device("cpu")), at(recipe, 0).teacher_temp, chosen)
    assert rows[0]["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert set(expected) == set(gradients[0])
    difference = torch.cat([(gradients[0][name] - value).flatten() for name, value in expected.items()]).norm()
    assert difference < 5e-4 * torch.cat([value.flatten() for value in expected.values()]).norm()

    assert not any(
        torch.equal(*pair) for pair in zip(before.teacher.parameters(), trainer.model.teacher.parameters(), strict=True)
    )
    if chosen["queue"]:
        assert trainer.model.cls_queue.any(-1).all()


def terms_of(chosen: Chosen) -> set[str]:
    found = {"loss_dino_global"} if chosen["dino_weight"] else set()
    found |= {"loss_dino_local"} if chosen["dino_weight"] and chosen["num_local"] else set()
    found |= {"loss_ibot"} if chosen["ibot_weight"] else set()
    return found | ({"loss_koleo"} if chosen["koleo_weight"] else set())


def evaluated(model, batch, temp: float, chosen: Chosen) -> tuple[float, dict[str, torch.Tensor]]:
    """The objective's value and gradients, by autograd alone.

    In fp32 without stochastic depth, of the whole batch as the papers write it; otherwise, since that form neither
    rounds nor draws alike, of the sum of the terms that are logged.
    """
    parameters = dict(model.student.named_parameters())
    if chosen["precision"] == "fp32" and not chosen["drop_path"]:
        losses = [plain(model, batch, temp)]
    else:
        torch.manual_seed(train._step_seed(model.recipe.seed, 0, 0))
        shares, _ = model.losses(batch.parts(chosen["accumulate"]), temp)
        losses = (sum(value for name, value in share.items() if name != "loss") for share in shares)
    total, sums = 0.0, {}
    for loss in losses:
        found = torch.autograd.grad(loss, list(parameters.values()))
        total += loss.item()
        sums = {name: sums.get(name, 0) + value for name, value in zip(parameters, found, strict=True)}
    return total, sums
