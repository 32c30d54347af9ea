import numpy as np
import pytest
import torch

from evaluation.features import trained
from tests.training.small import make_release, settings
from training.config import Masking
from training.data.loader import Batches, batches
from training.data.masking import add_blocks, batch_masks, max_block
from training.data.order import sample_at
from training.data.release import Release
from training.pretrained import load_backbone
from training.processes import Processes
from training.train import train


@pytest.mark.parametrize("num_samples", [1, 2, 3, 17, 1000])
def test_every_epoch_is_a_permutation_of_its_own(num_samples):
    epochs = [[sample_at(e * num_samples + i, num_samples, 7) for i in range(num_samples)] for e in range(3)]
    assert all(sorted(epoch) == list(range(num_samples)) for epoch in epochs)
    if num_samples > 10:
        assert len({tuple(epoch) for epoch in epochs}) == 3
        assert [sample_at(i, num_samples, 8) for i in range(num_samples)] != epochs[0]


def test_the_order_is_shuffled_and_far_positions_are_cheap():
    order = np.array([sample_at(i, 1000, 0) for i in range(1000)])
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.1
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.1
    assert 0 <= sample_at(10**15, 1_200_000_000, 3) < 1_200_000_000


@pytest.mark.parametrize(("image", "patch", "cap"), [(224, 16, 98), (224, 14, 128), (518, 14, 666)])
def test_the_cap_on_a_block_is_upstreams(image, patch, cap):
    assert max_block(image, patch) == cap


def test_half_the_crops_are_masked_in_stratified_shares():
    masks = batch_masks(64, 16, 128, Masking(), [0])
    counts = masks.sum(1)
    assert masks.shape == (64, 256)
    assert (counts > 0).sum() == 32
    shares = np.sort(counts[counts > 0]) / 256
    assert shares.max() <= 0.5
    assert np.abs(shares - np.linspace(0.1, 0.5, 32)).max() < 0.06
    assert not (counts[:32] > 0).all()  # shuffled


def test_exact_masks_have_the_drawn_count():
    masks = batch_masks(40, 8, 32, Masking(probability=1.0, ratio=(0.25, 0.25), exact_count=True), [0])
    assert (masks.sum(1) == 16).all()


def test_a_tiny_grid_still_has_a_masked_patch():
    masks = batch_masks(8, 2, 2, Masking(), [0])
    assert (masks.sum(1) > 0).sum() == 4


def test_blocks_never_exceed_the_target():
    for seed in range(50):
        mask = np.zeros((14, 14), dtype=bool)
        add_blocks(mask, 60, 98, np.random.default_rng(seed))
        assert 40 < mask.sum() <= 60


def test_a_batch_is_a_function_of_the_step_whoever_makes_it(tmp_path):
    recipe = settings(make_release(tmp_path / "release"), tmp_path).recipe
    release = Release(tmp_path / "release")
    alone = list(batches(Batches(release, recipe), 0, 0, torch.device("cpu")))
    helped = list(batches(Batches(release, recipe), 2, 2, torch.device("cpu")))
    assert (len(alone), len(helped)) == (6, 4)
    for one, two in zip(alone[2:], helped, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(alone[0].global_crops, alone[1].global_crops)


@pytest.mark.parametrize("count", [2, 4])
def test_the_parts_of_all_processes_are_the_batch_of_one(tmp_path, count):
    recipe = settings(make_release(tmp_path / "release"), tmp_path).recipe
    release = Release(tmp_path / "release")
    alone = Batches(release, recipe)[3]
    parts = [Batches(release, recipe, Processes(rank=rank, count=count))[3] for rank in range(count)]
    for name, crops in (("global_crops", 2), ("local_crops", 2), ("masks", 2)):
        shared = torch.cat([getattr(part, name).unflatten(0, (crops, -1)) for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(shared, getattr(alone, name))
    assert sum(len(part.mask_indices) for part in parts) == len(alone.mask_indices)


def test_a_batch_says_which_patches_are_masked(tmp_path):
    recipe = settings(make_release(tmp_path / "release"), tmp_path).recipe
    batch = Batches(Release(tmp_path / "release"), recipe)[0]
    assert batch.global_crops.shape == (8, 32, 32, 3)
    assert batch.local_crops.shape == (8, 16, 16, 3)
    assert batch.masks.flatten()[batch.mask_indices].all()
    assert len(batch.mask_indices) == int(batch.masks.sum())
    assert batch.mask_weights.sum().item() == pytest.approx(4)  # each of 4 masked crops weighs 1


def test_a_corrupt_image_gives_its_place_to_the_next_and_is_counted(tmp_path):
    root = make_release(tmp_path / "release", num_images=8, corrupt=2)
    recipe = settings(root, tmp_path, {"batch_size_global": 8}).recipe
    data = Batches(Release(root), recipe)
    found = [data[0], data[0]]
    assert int(found[0].num_unreadable) >= 2
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_release_of_corrupt_images_stops_the_run(tmp_path):
    root = make_release(tmp_path / "release", num_images=4, corrupt=4)
    with pytest.raises(ValueError, match="100 images in a row cannot be decoded"):
        Batches(Release(root), settings(root, tmp_path).recipe)[0]


def test_a_release_of_other_channels_says_why_it_stops(tmp_path):
    root = make_release(tmp_path / "release")
    pixels = {"mean": [0.5] * 6, "std": [0.25] * 6}
    recipe = settings(
        root, tmp_path, {"model": {"arch": "vit_nano", "patch_size": 8, "in_channels": 6}, "pixels": pixels}
    )
    with pytest.raises(
        ValueError, match=r"a JPEG of mode RGB does not have 6 channels; does .* recipe\.model\.in_channels"
    ):
        Batches(Release(root), recipe.recipe)[0]


def test_colours_on_the_device_are_those_of_the_worker(tmp_path):
    release = Release(make_release(tmp_path / "release"))
    crops = {"global_size": 32, "local_size": 16, "num_local": 2}
    ours, left = (
        Batches(release, settings(tmp_path / "release", tmp_path, {"crops": crops | {"augment": who}}).recipe)[1]
        for who in ("worker", "device")
    )
    assert (ours.colours.shape, left.colours.shape) == ((0, 8), (16, 8))
    there = left.to(torch.device("cpu"))
    for name in ("global_crops", "local_crops"):
        one, two, before = (getattr(batch, name).int() for batch in (ours, there, left))
        assert (one - two).abs().float().mean() < 1
        assert (one - before).abs().float().mean() > 5
    assert len(there.colours) == 0
    parts = [
        Batches(
            release, settings(tmp_path / "release", tmp_path, {"crops": crops | {"augment": "device"}}).recipe, who
        )[1]
        for who in (Processes(rank=0, count=2), Processes(rank=1, count=2))
    ]
    moved = [part.to(torch.device("cpu")).global_crops.unflatten(0, (2, -1)) for part in parts]
    assert torch.equal(torch.cat(moved, dim=1).flatten(0, 1), there.global_crops)


@pytest.mark.parametrize("augment", ["worker", "device"])
def test_a_run_on_pictures_of_two_channels(tmp_path, augment):
    (tmp_path / "scans").mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        np.save(tmp_path / "scans" / f"{number}.npy", rng.integers(0, 2000, (2, 40, 30), dtype=np.uint16))
    changes = {
        "steps": 1,
        "model": {"arch": "vit_nano", "patch_size": 8, "image_size": 32, "in_channels": 2},
        "pixels": {"mean": (0.5, 0.4), "std": (0.2, 0.3), "range": (0, 2000)},
        "crops": {"global_size": 32, "local_size": 16, "num_local": 2, "augment": augment},
        "optimiser": {"base_lr": 4e-3},
        "teacher": {"momentum": (0.9, 1.0)},
    }
    train(settings(tmp_path / "scans", tmp_path / "run", changes))
    model, info = load_backbone(tmp_path / "run")
    assert model.patch_embed.proj.weight.shape == (192, 2, 8, 8)
    assert info["input"] == {"size": 32, "mean": [0.5, 0.4], "std": [0.2, 0.3]}
    with pytest.raises(ValueError, match="takes pictures of 2 channels"):
        trained(str(tmp_path / "run"), 32, "cpu")
