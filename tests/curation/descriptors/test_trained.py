import hashlib

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curation.descriptors.base import EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.descriptors.trained import central_box

ARCHITECTURE = "vit_tiny_patch16_224"


class CopyDetector(torch.nn.Module):
    """SSCD's form in small: convolution, generalised-mean pooling with p = 3, linear, unit length."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.linear = torch.nn.Linear(8, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x).clamp(min=1e-6).pow(3.0).mean(dim=(2, 3)).pow(1 / 3.0)
        return torch.nn.functional.normalize(self.linear(x), dim=1)


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    torch.manual_seed(0)
    network = CopyDetector()
    path = tmp_path_factory.mktemp("weights") / "copy.torchscript.pt"
    torch.jit.script(network).save(path)
    return network, path


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE, num_classes=5)
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    safetensors.torch.save_file(network.state_dict(), path)
    return network, path


def _spec(path, **keys):
    return EmbedderSpec(**({"adapter": "torchscript", "weights": str(path), "sha256": _sha256(path)} | keys))


def _picture(width=100, height=60, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def test_torchscript_gives_what_the_network_gives(scripted):
    network, path = scripted
    embedder = load_embedder(_spec(path, size=64, resize="squash"))
    batch = np.stack([embedder.preprocess(_picture(seed=s)) for s in range(3)])
    with torch.no_grad():
        expected = network(embedder.pixels(batch)).numpy()
    np.testing.assert_allclose(embedder.embed(batch), expected, atol=1e-5)
    assert (embedder.kind, embedder.dim, batch.shape) == ("trained", 16, (3, 64, 64, 3))
    assert embedder.embed(batch[:0]).shape == (0, 16)


@pytest.mark.parametrize("resize", ["squash", "center_crop"])
def test_pixels_are_normalised_and_in_place(scripted, resize):
    embedder = load_embedder(_spec(scripted[1], size=32, resize=resize))
    picture = Image.new("RGB", (128, 64), (255, 0, 127))
    picture.paste((0, 0, 0), (0, 0, 16, 64))  # a black bar on the left, an eighth of the width
    encoded = embedder.preprocess(picture)
    assert (encoded.dtype, encoded.shape) == (np.uint8, (32, 32, 3))
    pixels = embedder.pixels(np.stack([encoded]))[0].numpy()
    assert (pixels.dtype, pixels.shape) == (np.float32, (3, 32, 32))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(pixels[:, 16, 16], (np.array([255, 0, 127]) / 255 - mean) / std, atol=1e-5)
    black = (0 - mean) / std
    is_black = np.abs(pixels[:, :, 0].mean(1) - black).max() < 1e-2
    assert is_black == (resize == "squash")  # the crop leaves the bar out


def test_timm_with_a_classifier_in_the_file(tensors):
    network, path = tensors
    embedder = load_embedder(_spec(path, adapter="timm", model=ARCHITECTURE))
    batch = embedder.preprocess(_picture())[None]
    network.eval()
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(embedder.pixels(batch)), pre_logits=True).numpy()
    np.testing.assert_allclose(embedder.embed(batch)[0], expected[0] / np.linalg.norm(expected[0]), atol=1e-5)


def test_the_digest_follows_content_and_not_place(scripted, tmp_path):
    path = scripted[1]
    copy = tmp_path / "elsewhere.pt"
    copy.write_bytes(path.read_bytes())
    digests = [load_embedder(_spec(p, size=s)).digest for p, s in ((path, 32), (copy, 32), (path, 64))]
    assert digests[0] == digests[1] != digests[2]


def test_weights_with_another_hash_are_not_parsed(scripted, tmp_path):
    tampered = tmp_path / "tampered.pt"
    tampered.write_bytes(scripted[1].read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"tampered.pt have the SHA-256 .* not "):
        load_embedder(_spec(tampered, sha256=_sha256(scripted[1])))
    with pytest.raises(ValueError, match="cannot be read"):
        load_embedder(_spec(scripted[1], weights=str(tmp_path / "absent.pt")))


def test_files_of_another_kind(scripted, tensors, tmp_path):
    noise = tmp_path / "noise"
    noise.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="no TorchScript"):
        load_embedder(_spec(noise))
    with pytest.raises(ValueError, match="no safetensors, nor"):
        load_embedder(_spec(noise, adapter="timm", model=ARCHITECTURE))
    with pytest.raises(ValueError, match="do not fit resnet18"):
        load_embedder(_spec(tensors[1], adapter="timm", model="resnet18"))
    with pytest.raises(ValueError, match="unknown to timm"):
        load_embedder(_spec(tensors[1], adapter="timm", model="vit_of_nobody"))
    with pytest.raises(ValueError, match="size = 100"):
        load_embedder(_spec(tensors[1], adapter="timm", model=ARCHITECTURE, size=100))


@pytest.mark.parametrize("sides", [(640, 427), (1024, 683), (427, 640), (500, 333), (225, 224), (100, 60)])
@pytest.mark.parametrize(("crop_pct", "resized"), [(1.0, 224), (0.875, 256), (0.9, 248)])
def test_the_crop_is_torchvision_s(scripted, sides, crop_pct, resized):
    transforms = pytest.importorskip("torchvision.transforms")
    embedder = load_embedder(_spec(scripted[1], size=224, crop_pct=crop_pct))
    picture = _picture(40, 30).resize(sides, Image.Resampling.BICUBIC)
    resize = transforms.Resize(resized, transforms.InterpolationMode.BICUBIC)
    expected = np.asarray(transforms.CenterCrop(224)(resize(picture)))
    difference = np.abs(embedder.preprocess(picture).astype(int) - expected)
    assert difference.mean() < 0.1
    assert difference.max() <= 2  # of 255


@pytest.mark.parametrize("sides", [(1_000_000, 2), (2, 1_000_000), (1, 1), (1, 3)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_a_strip_is_cropped_before_it_is_resized(scripted, sides, crop_pct):
    """Resized first, the first of them would be 112,000,000 x 224 pixels."""
    embedder = load_embedder(_spec(scripted[1], size=224, crop_pct=crop_pct))
    assert embedder.preprocess(Image.new("RGB", sides, (9, 9, 9))).shape == (224, 224, 3)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 600), st.floats(0.1, 1))
def test_the_box_is_a_square_in_the_middle(width, height, size, crop_pct):
    resized = max(size, int(size / crop_pct))
    left, upper, right, lower = central_box(width, height, size, resized)
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height
    side = min(width, height) * size / resized
    for start, end, whole in ((left, right, width), (upper, lower, height)):
        pixel = whole / (resized * whole // min(width, height))  # of the resized picture
        assert end - start == pytest.approx(side, rel=0.5 / resized + 1 / resized)
        assert abs((start + end) / 2 - whole / 2) <= 0.5 * pixel + 1e-6


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean(dim=(2, 3)), x


class Named(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"vector": x.mean(dim=(2, 3))}


class Maps(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class OneForAll(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(0, 2, 3))[None]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Pair, "tuple for 8 pictures"),
        (Named, "dict for 8 pictures"),
        (Maps, r"\[8, 3, 32, 32\] for 8 pictures"),
        (OneForAll, r"\[1, 3\] for 8 pictures"),
    ],
)
def test_a_network_that_gives_no_vector_for_each_picture(tmp_path, network, message):
    path = tmp_path / "other.pt"
    torch.jit.script(network()).save(path)
    with pytest.raises(ValueError, match=rf"other.pt\) gives {message}, not one vector each"):
        load_embedder(_spec(path, size=32))
