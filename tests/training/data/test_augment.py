import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tests.training.small import jpeg
from training.config import Crops, Pixels
from training.data import colour
from training.data.augment import Crop, cut, draw_crops, multi_crop, normalise, random_box, spare_scale
from training.data.colour import ORDERS, Colour, coloured, draw_colour
from training.data.colour_on_device import coloured_batch
from training.data.picture import open_picture

PLAIN = Colour(-1, 1.0, 1.0, 1.0, 0.0, False, 0.0, False)
JITTERED = PLAIN._replace(order=0)  # brightness, contrast, saturation, hue


def photo(side: int = 64, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth, with edges, over the whole range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, channels), dtype=np.uint8)
    planes = [np.asarray(Image.fromarray(coarse[..., c]).resize((side, side), 3)) for c in range(channels)]
    x = np.stack(planes, axis=-1)
    x[side // 4 : side // 2, side // 4 : side // 2] = rng.integers(0, 256, channels)
    return x


def picture(image: np.ndarray, format_: str = "PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format_)
    return open_picture(buffer.getvalue(), 3, Pixels())


def torchvisions(change, x: np.ndarray, *args) -> np.ndarray:
    return change(torch.from_numpy(x).permute(2, 0, 1), *args).permute(1, 2, 0).numpy()


def differences(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(int) - two.astype(int))


def test_boxes_keep_their_bounds():
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = random_box(120, 80, (0.3, 0.5), rng)
        assert 0 <= left < right <= 120
        assert 0 <= top < bottom <= 80
        assert 0.28 < (right - left) * (bottom - top) / 9600 < 0.52
        assert 0.7 < (right - left) / (bottom - top) < 1.4
    assert random_box(1000, 10, (0.9, 1.0), rng) == (493, 0, 506, 10)  # nothing fits: the middle


def test_boxes_are_torchvisions_in_distribution():
    rng, image = np.random.default_rng(0), torch.empty(3, 90, 130)
    ours = np.array([random_box(130, 90, (0.05, 1.0), rng) for _ in range(4000)])
    torch.manual_seed(0)
    peer = v2.RandomResizedCrop(8, scale=(0.05, 1.0))
    found = [peer.make_params([image]) for _ in range(4000)]
    theirs = np.array([(p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]) for p in found])
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 2
    assert np.abs(ours.std(0) - theirs.std(0)).max() < 2


@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_a_crop_is_resized_as_by_torchvision(channels):
    x = photo(96, channels)
    for size, box in ((32, (10, 20, 90, 70)), (48, (40, 40, 60, 56))):
        expected = torchvisions(F.resized_crop, x, box[1], box[0], box[3] - box[1], box[2] - box[0], [size, size], 3)
        found = cut(x, Crop(size, box, False, PLAIN))
        assert (found.shape, found.dtype) == ((size, size, channels), np.uint8)
        assert differences(found, expected).max() <= 1
        assert np.array_equal(cut(x, Crop(size, box, True, PLAIN)), found[:, ::-1])


def test_a_picture_is_reduced_as_far_as_no_crop_is_magnified():
    def spare(*boxes):
        return spare_scale([Crop(size, box, False, PLAIN) for size, box in boxes])

    assert spare((100, (0, 0, 900, 450)), (50, (10, 10, 260, 300))) == 4.5
    assert spare((100, (0, 0, 900, 450)), (50, (10, 10, 50, 300))) == 0.8
    big = picture(np.asarray(Image.fromarray(photo(600)).resize((1200, 900), 3)), "JPEG")
    config = Crops(global_size=64, local_size=32, num_local=4)
    asked = []
    big.can_reduce = lambda most, f=big.can_reduce: asked.append(f(most)) or asked[-1]
    views = multi_crop(big, config, np.random.default_rng(0))
    assert asked[0] in (4, 8)
    crops = draw_crops(1200, 900, config, np.random.default_rng(0))
    assert all(min(c.box[2] - c.box[0], c.box[3] - c.box[1]) >= asked[0] * c.size for c in crops)
    full = picture(np.asarray(Image.fromarray(photo(600)).resize((1200, 900), 3)), "JPEG")
    full.can_reduce = lambda _: 1
    assert differences(views.local_crops, multi_crop(full, config, np.random.default_rng(0)).local_crops).mean() < 3


@pytest.mark.parametrize(
    ("ours", "theirs", "factors"),
    [
        (colour.brightened, F.adjust_brightness, (0.6, 0.93, 1.4)),
        (colour.contrasted, F.adjust_contrast, (0.6, 0.93, 1.4)),
        (colour.saturated, F.adjust_saturation, (0.8, 0.93, 1.2)),
    ],
)
def test_a_change_is_torchvisions_up_to_rounding(ours, theirs, factors):
    for factor in factors:
        assert differences(ours(photo(), factor), torchvisions(theirs, photo(), factor)).max() <= 2


def test_a_hue_is_turned_as_by_torchvision_and_nearer_than_by_pillow():
    for turns in (-0.1, 0.03, 0.1):
        expected = torchvisions(F.adjust_hue, photo(), turns)
        off = differences(colour.turned(photo(), turns), expected)
        pillows = differences(np.asarray(F.adjust_hue(Image.fromarray(photo()), turns)), expected)
        assert off.mean() < min(1, pillows.mean())
        assert off.max() <= 10
    assert np.array_equal(colour.turned(photo(), 0.001), photo())


def test_the_other_changes_are_torchvisions():
    x = photo()
    grey = torchvisions(F.rgb_to_grayscale, x, 3)
    assert differences(coloured(x, PLAIN._replace(grey=True)), grey).max() <= 1
    for sigma in (0.1, 0.7, 2.0):
        blurred = torchvisions(F.gaussian_blur, x, [9, 9], [sigma, sigma])
        assert differences(coloured(x, PLAIN._replace(sigma=sigma)), blurred).max() <= 1
    assert np.array_equal(coloured(x, PLAIN._replace(solarise=True)), torchvisions(F.solarize, x, 128))
    assert np.array_equal(coloured(x, PLAIN), x)


def test_what_is_drawn_has_upstreams_probabilities():
    rng = np.random.default_rng(0)
    drawn = np.array([draw_colour(0.5, 0.2, rng) for _ in range(5000)], dtype=float)
    order, *factors, grey, sigma, solarise = drawn.T
    assert [np.mean(x) for x in (order >= 0, grey, sigma > 0, solarise)] == pytest.approx(
        [0.8, 0.2, 0.5, 0.2], abs=0.02
    )
    assert set(order) == {-1, *range(24)}
    for values, low, high in zip(factors, (0.6, 0.6, 0.8, -0.1), (1.4, 1.4, 1.2, 0.1), strict=True):
        assert low <= values.min() < low + 0.01 < high - 0.01 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02)
    assert sigma[sigma > 0].mean() == pytest.approx(1.05, abs=0.05)


def test_colour_jitter_is_torchvisions_in_distribution():
    rng, x = np.random.default_rng(1), photo(16)
    drawn = (draw_colour(0, 0, rng)._replace(grey=False) for _ in range(1000))
    ours = np.stack([coloured(x, one) for one in drawn if one.order >= 0])
    torch.manual_seed(0)
    peer, tensor = v2.ColorJitter(0.4, 0.4, 0.2, 0.1), torch.from_numpy(x).permute(2, 0, 1)
    theirs = torch.stack([peer(tensor) for _ in range(800)]).permute(0, 2, 3, 1).numpy()
    assert np.abs(ours.mean(0) - theirs.mean(0)).mean() < 4
    assert np.abs(ours.std(0) - theirs.std(0)).mean() < 4


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channels_have_no_hue_and_keep_their_shape(channels):
    x = photo(32, channels)
    for number in range(20):
        one = draw_colour(0.5, 0.5, np.random.default_rng(number))
        found = coloured(x, one)
        assert (found.shape, found.dtype) == (x.shape, np.uint8)
        assert np.array_equal(found, coloured(x, one._replace(hue=0.0, saturation=1.0, grey=False)))
    flat = colour.contrasted(x, 0.0)  # each channel goes to its own mean
    assert np.abs(flat - x.reshape(-1, channels).mean(0)).max() <= 0.5


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_device_changes_colours_as_a_worker_does(channels):
    rng = np.random.default_rng(0)
    x = np.stack([photo(48, channels, seed) for seed in range(64)])
    drawn = [draw_colour(0.5, 0.3, rng) for _ in range(len(x))]
    ours = np.stack([coloured(one, changes) for one, changes in zip(x, drawn, strict=True)])
    theirs = coloured_batch(torch.from_numpy(x), torch.tensor(np.array(drawn, dtype=np.float32))).numpy()
    off = differences(ours, theirs)[[not changes.solarise for changes in drawn]]  # it doubles what is off by one at 128
    assert off.mean() < 1
    assert np.quantile(off, 0.999) <= 8
    assert differences(ours, theirs).mean() < 2


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        *((JITTERED._replace(**one), 1) for one in ({"brightness": 1.4}, {"contrast": 0.6}, {"saturation": 1.2})),
        (JITTERED._replace(hue=0.1), 10),
        (PLAIN._replace(grey=True), 1),
        (PLAIN._replace(sigma=1.3), 1),
        (PLAIN._replace(solarise=True), 0),
        (PLAIN, 0),
    ],
)
def test_one_change_on_the_device_is_that_of_a_worker(changes, most):
    found = coloured_batch(torch.from_numpy(photo())[None], torch.tensor([changes], dtype=torch.float32))[0].numpy()
    assert differences(found, coloured(photo(), changes)).max() <= most


def test_the_order_of_a_jitter_is_kept_on_the_device():
    changes = [JITTERED._replace(order=i, brightness=1.4, contrast=0.6, saturation=1.2, hue=0.1) for i in range(24)]
    x = torch.from_numpy(photo())[None].expand(24, -1, -1, -1)
    found = coloured_batch(x, torch.tensor(changes)).numpy()
    for one, there in zip(changes, found, strict=True):
        assert differences(coloured(photo(), one), there).mean() < 1
    assert len(ORDERS) == len({one.tobytes() for one in found}) == 24


def test_the_batch_in_parts_is_the_batch_on_the_device():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(np.stack([photo(56, seed=seed) for seed in range(24)]))
    drawn = torch.tensor([draw_colour(0.5, 0.3, rng) for _ in range(len(x))], dtype=torch.float32)
    parts = [coloured_batch(*part) for part in zip(x.split(5), drawn.split(5), strict=True)]
    assert torch.equal(torch.cat(parts), coloured_batch(x, drawn))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_changes_colours_as_a_worker_does():
    rng = np.random.default_rng(0)
    x = np.stack([photo(48, 3, seed) for seed in range(64)])
    drawn = [draw_colour(0.5, 0.0, rng) for _ in range(len(x))]
    ours = np.stack([coloured(one, changes) for one, changes in zip(x, drawn, strict=True)])
    there = coloured_batch(torch.from_numpy(x).cuda(), torch.tensor(drawn, dtype=torch.float32)).cpu().numpy()
    assert differences(ours, there).mean() < 1


def sharpness(views: list[np.ndarray]) -> float:
    return float(np.mean([np.abs(np.diff(v.astype(float), axis=0)).mean() for v in views]))


def test_the_blur_switch_moves_the_blur_to_the_other_crop():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sharp = {}
    for blur in ("documented", "upstream", "none"):
        config = Crops(global_size=32, local_size=16, num_local=0, blur=blur)
        crops = [multi_crop(picture(image), config, np.random.default_rng(i)).global_crops for i in range(40)]
        sharp[blur] = [sharpness([c[j] for c in crops]) for j in (0, 1)]
    assert sharp["documented"][0] < 0.8 * sharp["documented"][1]
    assert sharp["upstream"][1] < 0.8 * sharp["upstream"][0]
    assert min(sharp["none"]) > 0.95 * max(max(pair) for pair in sharp.values())


def test_views_are_a_function_of_their_generator():
    def views(seed: int):
        config = Crops(global_size=32, local_size=16, num_local=3)
        return multi_crop(open_picture(jpeg(0), 3, Pixels()), config, np.random.default_rng(seed))

    one, two, other = views(1), views(1), views(2)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not np.array_equal(one.global_crops, other.global_crops)
    assert (one.global_crops.shape, one.local_crops.shape) == ((2, 32, 32, 3), (3, 16, 16, 3))
    assert one.global_crops.dtype == one.local_crops.dtype == np.uint8


def test_normalised_images_have_the_mean_at_zero():
    crop = torch.tensor([0.485, 0.456, 0.406]).mul(255).round().byte().expand(1, 4, 4, 3)
    assert normalise(crop, Pixels()).abs().max() < 0.01
    assert normalise(crop, Pixels()).shape == (1, 3, 4, 4)
    assert normalise(crop[..., :1], Pixels(mean=(0.0,), std=(0.5,))).unique().item() == pytest.approx(2 * 124 / 255)
