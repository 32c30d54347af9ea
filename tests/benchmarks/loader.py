"""Crops from a release, ours beside webdataset with torchvision's transforms: the same tars, workers and augmentation.

Both give uint8 batches of 2 x 224 and 8 x 98 pixels a picture, ours in a shuffled order that can be entered anywhere
and with the masks of the step, the peer in its own order. The peer's transforms are those of DINOv2's public code, in
two forms: on Pillow's pictures, as there, and on uint8 tensors. ``speedup_webdataset`` is over the faster of the two.
``ours_device`` leaves changes of colour to a device, so it does less than the others: it shows what workers are spared.
All workers live through all rounds; those whose turn it is not have prepared their batches and wait.
"""

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import webdataset
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2

from conf import entry_point
from curation.images.ids import image_id
from curation.release.shards import write_shard
from tests.benchmarks import harness
from tests.benchmarks.screen import FOLDERS, POCKET, files_of
from training.config import Crops, Data, Recipe
from training.data.loader import Batches, batches
from training.data.sources import open_source

CROPS = Crops()
NUM_CROPS = 2 + CROPS.num_local
SHARDS = 8
SHUFFLE = 1000  # samples in the buffer of the peer


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.loader",
        "Crops a second from a release, beside webdataset with torchvision's transforms.",
        "--images pocket --num-batches 6 --rounds 3",
        rounds=3,
    )
    present = [str(folder) for folder in FOLDERS if folder.is_dir()]
    parser.add_argument("--images", nargs="+", default=present or [POCKET], help=f"folders of images, or {POCKET}")
    parser.add_argument(
        "--workers", type=int, default=min(cores_of_this(), 8), help="processes that decode and augment"
    )
    parser.add_argument("--batch", type=int, default=32, help="pictures a batch")
    parser.add_argument("--num-batches", type=int, default=24, help="that are timed in a round")
    options = parser.parse_args()
    if min(options.workers, options.batch, options.num_batches) < 1:
        raise ValueError("--workers, --batch and --num-batches: give 1 or more")
    with tempfile.TemporaryDirectory() as folder:
        files = [file for images in options.images for file in files_of(images, Path(folder))]
        release = make_release(Path(folder) / "release", files)
        shape = release, options.batch, options.workers
        contenders: dict[str, Callable[[int], Iterator[Any]]] = {
            "ours": partial(ours, *shape, "worker"),
            "ours_device": partial(ours, *shape, "device"),
            "webdataset_pillow": partial(peer, *shape, _pillow, on_pillow),
            "webdataset_tensor": partial(peer, *shape, _tensor, on_tensor),
        }
        timing = measure(contenders, options.rounds, options.workers, options.num_batches)
    faster = min("webdataset_pillow", "webdataset_tensor", key=timing.median_s)
    num_crops = NUM_CROPS * options.batch * options.num_batches
    keys: dict[str, Any] = {"images": len(files), "workers": options.workers, "batch": options.batch}
    keys |= {f"crops_per_s_{name}": num_crops / timing.median_s(name) for name in timing.seconds}
    keys["crops_per_s"] = keys.pop("crops_per_s_ours")
    keys |= {key.replace(faster, "webdataset"): value for key, value in timing.speedup(faster).items()}
    keys |= timing.speedup("webdataset_pillow") | timing.speedup("webdataset_tensor")
    harness.finish("loader", timing, keys)
    return 0


def measure(
    contenders: dict[str, Callable[[int], Iterator[Any]]], rounds: int, workers: int, num_batches: int
) -> harness.Timing:
    """Seconds of so many batches of each contender, in turn, with as many under way at the end as at the start."""
    if rounds < 1:
        raise ValueError(f"--rounds {rounds}: give 1 or more")
    ahead = 3 * workers  # more than a loader prepares
    found = {name: make(rounds * (ahead + num_batches) + ahead) for name, make in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, loader in found.items():
            for _ in range(ahead):
                next(loader)
            start = time.perf_counter()
            for _ in range(num_batches):
                batch = next(loader)
            seconds[name].append(time.perf_counter() - start)
            check(batch)
            time.sleep(seconds[name][-1] / num_batches * ahead)  # until its workers have nothing to do
    return harness.Timing(seconds, {})


def check(batch: Any) -> None:
    """The two groups of crops have the shapes of the recipe."""
    for crops, size in zip(batch[:2], (CROPS.global_size, CROPS.local_size), strict=True):
        assert crops.dtype == torch.uint8
        assert crops.shape[2] == size
    assert len(batch[1]) * 2 == len(batch[0]) * CROPS.num_local


def ours(release: Path, batch: int, workers: int, augment: str, num_batches: int) -> Iterator[Any]:
    """Our loader on the release."""
    recipe = Recipe.model_validate({"steps": num_batches, "batch_size_global": batch, "crops": {"augment": augment}})
    data = Batches(open_source(Data(release=str(release))), recipe)
    return batches(data, 0, workers, torch.device("cpu"))


def peer(
    release: Path,
    batch: int,
    workers: int,
    decode: Callable[[bytes], Any],
    transform: Callable[[], "Augmentation"],
    num_batches: int,
) -> Iterator[Any]:
    """Webdataset on the tars of the release."""
    shards = sorted(str(shard) for shard in release.glob("*.tar"))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=SHARDS, seed=0)
        .repeat()
        .shuffle(SHUFFLE)
        .map(partial(augmented, decode, transform()))
        .batched(batch, collation_fn=collated, partial=False)
        .with_epoch(num_batches)
    )
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context="forkserver"))


class Augmentation:
    """DataAugmentationDINO of the public code, up to the crops' bytes.

    Args:
        to_bytes: what ends each crop, uint8 [3, S, S].
    """

    def __init__(self, to_bytes: v2.Transform) -> None:
        bicubic = {"interpolation": InterpolationMode.BICUBIC, "antialias": True}
        jitter = v2.Compose(
            [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8), v2.RandomGrayscale(p=0.2)],
        )

        def geometry(size: int, scale: tuple[float, float]) -> v2.Compose:
            return v2.Compose([v2.RandomResizedCrop(size, scale=scale, **bicubic), v2.RandomHorizontalFlip(0.5)])

        def blur(p: float) -> v2.Transform:
            return v2.RandomApply([v2.GaussianBlur(kernel_size=9, sigma=(0.1, 2.0))], p=p)

        large = geometry(CROPS.global_size, CROPS.global_scale)
        small = geometry(CROPS.local_size, CROPS.local_scale)
        self.first = v2.Compose([large, jitter, blur(1.0), to_bytes])
        self.second = v2.Compose([large, jitter, blur(0.1), v2.RandomSolarize(threshold=128, p=0.2), to_bytes])
        self.local = v2.Compose([small, jitter, blur(0.5), to_bytes])

    def __call__(self, image: Any) -> tuple[list[Tensor], list[Tensor]]:
        """All crops of one picture."""
        return [self.first(image), self.second(image)], [self.local(image) for _ in range(CROPS.num_local)]


def on_pillow() -> Augmentation:
    """Transforms of Pillow's pictures."""
    return Augmentation(v2.PILToTensor())


def on_tensor() -> Augmentation:
    """Transforms of uint8 tensors."""
    return Augmentation(v2.Identity())


def augmented(decode: Callable[[bytes], Any], augmentation: Augmentation, sample: dict[str, Any]) -> Any:
    """The crops of a sample, whose image is the one member that is not its JSON."""
    data = next(value for key, value in sample.items() if not key.startswith("__") and key != "json")
    return augmentation(decode(data))


def collated(samples: Sequence[tuple[list[Tensor], list[Tensor]]]) -> tuple[Tensor, Tensor]:
    """All crops of a batch: of 224 px, and of 98."""
    large, small = zip(*samples, strict=True)
    return torch.stack([x for one in large for x in one]), torch.stack([x for one in small for x in one])


def _pillow(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _tensor(data: bytes) -> Tensor:
    return decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def make_release(root: Path, files: Sequence[Path]) -> Path:
    """The files as a release of ``SHARDS`` tars, with the part of its index that training reads."""
    root.mkdir()
    rows = []
    pictures = sorted({image_id(data): (file, data) for file in files for data in [file.read_bytes()]}.items())
    for number in range(SHARDS):
        samples = [
            (name, file.suffix.lower()[1:], data, {"image_id": name}) for name, (file, data) in pictures[number::SHARDS]
        ]
        with (root / f"{number:05d}.tar").open("wb") as tar:
            members = write_shard(tar, samples)
        for (name, *_), member in zip(samples, members, strict=True):
            place = {"offset_bytes": member.offset_bytes, "size_bytes": member.size_bytes}
            rows.append({"image_id": name, "shard": f"{number:05d}.tar", **place})
    pq.write_table(pa.Table.from_pylist(rows), root / "index.parquet")
    return root


def cores_of_this() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    entry_point(main)
