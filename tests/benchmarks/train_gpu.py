"""One training step on one GPU, ours beside the public dinov2 code: images/s, MFU, memory, the wait for data.

The shape is that of ``conf/training/vitl14.yaml``: 2 global crops of 224 pixels and 8 local ones of 98, patches of 14,
SwiGLU, stochastic depth 0.4, half of the global crops masked, two heads of K prototypes, Sinkhorn. Ours computes in
bf16; upstream's in fp16 with a scaled loss, as its configuration says, with xformers where it is installed. Timed are
updates on a batch that is on the device. Both live on the device at once, in a process each, and one works at a time.

MFU is the operations of the method over those that the device could do: a multiplication and an addition are two;
what is computed again to save memory does not count. The wait for data is the share of a loop in which the device has
no batch yet: pictures of 500 x 375 pixels through the real loader.
"""

import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from conf import entry_point
from tests.benchmarks import harness
from tests.benchmarks._upstream_step import UpstreamStep
from tests.benchmarks.train_step import Contender, random_batch
from training.config import Recipe, Runtime
from training.models.vit import SIZES

DENSE_BF16_TFLOPS = {  # data sheets, without sparsity
    "A100": 312,
    "H100 PCIe": 756,
    "H100": 989,
    "H200": 989,
    "GH200": 989,
    "B200": 2250,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "V100": 125,
}
DATA_STEPS = 10


class Setting(NamedTuple):
    """What both run."""

    arch: str
    batch: int
    prototypes: int
    device: str
    updates: int


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.train_gpu",
        "Images/s, MFU, memory and data wait of training on one GPU, beside the public dinov2 code.",
        "--upstream ../dinov2 --out docs/results",
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: to try the script, with --arch")
    parser.add_argument("--arch", default="vit_large", help="vit_small, vit_base, vit_large or vit_giant2")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--prototypes", type=int, default=131072, help="K of each of the two heads")
    parser.add_argument("--updates", type=int, default=10, help="in a measured round")
    parser.add_argument("--workers", type=int, default=8, help="processes that decode and augment")
    parser.add_argument("--attention", default="auto", help="runtime.attention: auto, varlen, xformers or sdpa")
    parser.add_argument("--compile", default="auto", choices=("auto", "true", "false"), help="runtime.compile")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16; by default from its name")
    parser.add_argument("--upstream", help="folder of a clone of facebookresearch/dinov2")
    parser.add_argument("--out", type=Path, help="folder that gets the result as train_gpu_<device>.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "no CUDA device is visible, so there is nothing to measure; run this on a machine with a GPU, or try the "
            "script with --device cpu --arch vit_nano --batch 2 --prototypes 64 --updates 1"
        )
    setting = Setting(options.arch, options.batch, options.prototypes, options.device, options.updates)
    compiled = {"auto": "auto", "true": True, "false": False}[options.compile]
    runtime = Runtime(device=options.device, workers=options.workers, attention=options.attention, compile=compiled)
    contenders: dict[str, Contender] = {}
    try:
        contenders["ours"] = Contender(Ours, setting, runtime)
        if options.upstream:
            contenders["upstream"] = Contender(Upstream, setting, options.upstream)
        timing = harness.measure({name: one.step for name, one in contenders.items()}, options.rounds)
        peaks = {name: one.ask("peak_bytes") for name, one in contenders.items()}
        told = contenders["ours"].ask("told")
        wait = contenders["ours"].ask("data_wait_share")
    finally:
        for one in contenders.values():
            one.end()
    images = setting.batch * setting.updates
    name = torch.cuda.get_device_name() if options.device == "cuda" else None
    peak_tflops = options.peak_tflops or peak_of(name)
    tflops = step_flops(recipe_of(setting)) * setting.updates / timing.median_s() / 1e12
    keys: dict[str, Any] = {
        **setting._asdict(),
        "device": name or "cpu",
        "peak_tflops": peak_tflops,
        **told,
        "images_per_s": images / timing.median_s(),
        "tflops": tflops,
        "mfu": tflops / peak_tflops if peak_tflops else None,
        "peak_bytes": peaks["ours"],
        "data_wait_share": wait,
        **timing.speedups(),
    }
    if "upstream" in contenders:
        keys |= {
            "images_per_s_upstream": images / timing.median_s("upstream"),
            "peak_bytes_upstream": peaks["upstream"],
            "memory_ratio": peaks["ours"] / peaks["upstream"],
        }
    if options.out:
        path = options.out / f"train_gpu_{re.sub(r'[^a-z0-9]+', '_', keys['device'].lower())}.json"
        record = {"name": "train_gpu", "hardware": harness.hardware(), "commit": harness.commit(), **keys}
        path.write_text(json.dumps(harness.rounded(record), indent=1) + "\n")
        print(f"kept in {path}", file=sys.stderr)
    harness.finish("train_gpu", timing, keys)
    return 0


def recipe_of(setting: Setting) -> Recipe:
    """Ours, as ``conf/training/vitl14.yaml`` has it."""
    return Recipe.model_validate(
        {
            "steps": 100_000,
            "batch_size_global": setting.batch,
            "precision": "bf16",
            "model": {"arch": setting.arch, "patch_size": 14, "image_size": 224, "ffn": "swiglu", "drop_path": 0.4},
            "heads": {
                "dino": {"prototypes": setting.prototypes, "bottleneck": 384},
                "ibot": {"prototypes": setting.prototypes},
            },
            "optimiser": {"base_lr": 2e-4, "weight_decay": (0.04, 0.2), "layer_decay": 1.0},
            "teacher": {"momentum": (0.994, 1.0)},
        }
    )


class Ours:
    """Updates by our trainer."""

    def __init__(self, setting: Setting, runtime: Runtime) -> None:
        from training.kernels import chosen
        from training.processes import Processes
        from training.train import Trainer

        self.setting, self.runtime, self.recipe = setting, runtime, recipe_of(setting)
        self.device = torch.device(setting.device)
        self.kernels = chosen(runtime, self.device, "bf16")
        self.trainer = Trainer(self.recipe, Processes(self.device), kernels=self.kernels)
        self.batch = random_batch(self.recipe).to(self.device)

    def __call__(self) -> None:
        """The updates of a round."""
        for _ in range(self.setting.updates):
            self._update(self.batch)
        settle(self.device)

    def told(self) -> dict[str, Any]:
        """Which kernels were chosen."""
        return {"attention": self.kernels.fused.__name__, "compiled": self.kernels.compiled}

    def peak_bytes(self) -> int:
        """The most memory so far: of the device, or on a CPU of the process."""
        return peak_bytes(self.device)

    def data_wait_share(self) -> float:
        """Share of a loop over the real loader in which the device has finished and the next batch is not there."""
        from training.data.loader import Batches, batches
        from training.data.release import Release

        with tempfile.TemporaryDirectory() as folder:
            make_pictures(Path(folder), 64)
            steps = batches(Batches(Release(folder), self.recipe), 0, self.runtime.workers, self.device)
            self._update(next(steps).to(self.device))  # workers have started
            settle(self.device)
            start, waited = time.perf_counter(), 0.0
            for _ in range(min(DATA_STEPS, self.setting.updates)):
                asked = time.perf_counter()
                batch = next(steps)
                waited += time.perf_counter() - asked
                self._update(batch.to(self.device))
                settle(self.device)
            share = waited / (time.perf_counter() - start)
            del steps
            return share

    def _update(self, batch: Any) -> None:
        from training.schedules import at

        self.trainer.update(batch, at(self.recipe, self.trainer.step + 1))


class Upstream:
    """Updates by the public code."""

    def __init__(self, setting: Setting, checkout: str) -> None:
        self.setting, self.device = setting, torch.device(setting.device)
        more = {
            "dino": {"head_bottleneck_dim": 384},
            "ibot": {"separate_head": True, "head_n_prototypes": setting.prototypes},
            "student": {"drop_path_rate": 0.4, "ffn_layer": "swiglufused"},
        }
        precision = "fp16" if self.device.type == "cuda" else "bf16"  # a CPU has no fp16 to speak of
        self.step: Callable[[], float] = UpstreamStep(
            checkout, *setting[:3], "sinkhorn", precision, more, setting.device
        )

    def __call__(self) -> None:
        """The updates of a round; each is waited for, since upstream's loop reads its losses."""
        for _ in range(self.setting.updates):
            self.step()
        settle(self.device)

    def peak_bytes(self) -> int:
        """The most memory so far."""
        return peak_bytes(self.device)


def settle(device: torch.device) -> None:
    """Wait for all that the device has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(device: torch.device) -> int:
    """The most memory so far: what tensors took on the device, or on a CPU all of the process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else harness.own_peak_rss_bytes()


def make_pictures(folder: Path, number: int) -> None:
    """JPEG files of 500 x 375 pixels with about the detail, and so the cost, of photographs."""
    rng = np.random.default_rng(0)
    for i in range(number):
        coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.jpg", quality=90)


def peak_of(name: str | None) -> float | None:
    """TFLOP/s of a device in bf16, without sparsity; None where its name is not known."""
    known = [key for key in DENSE_BF16_TFLOPS if name and set(key.split()) <= set(re.split(r"[ -]", name))]
    return float(DENSE_BF16_TFLOPS[max(known, key=len)]) if known else None


def step_flops(recipe: Recipe) -> float:
    """FLOP of the matrix products of a step: of the teacher forward; of the student forward and twice that backward."""
    dim, depth, _ = SIZES[recipe.model.arch]
    hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8 * 3 / 2 if recipe.model.ffn == "swiglu" else 4 * dim
    crops, patch, size = recipe.crops, recipe.model.patch_size, recipe.batch_size_global
    num_patches = (crops.global_size // patch) ** 2
    masked = 2 * size * recipe.masking.probability * sum(recipe.masking.ratio) / 2 * num_patches
    feed_forward = 2 * 2 * dim * hidden  # a token

    def backbone(sides: dict[int, int], selected: float, kept: float, gradients: bool) -> float:
        passes, total = 3 if gradients else 1, selected * feed_forward * kept * (3 if gradients else 1)
        for side, number in sides.items():
            patches = (side // patch) ** 2
            tokens = 1 + recipe.model.num_register_tokens + patches
            attention = tokens * 2 * 4 * dim**2 + 2 * 2 * tokens**2 * dim
            total += number * kept * passes * (depth * attention + (depth - 1) * tokens * feed_forward)
            total += number * min(passes, 2) * patches * 2 * 3 * patch**2 * dim  # pixels need no gradient
        return total

    def head(which: Any) -> float:
        inner = dim * which.hidden + which.hidden**2 + which.hidden * which.bottleneck
        return 2.0 * (inner + which.bottleneck * which.prototypes)

    student = {crops.global_size: 2 * size, crops.local_size: crops.num_local * size}
    classes = (2 + crops.num_local) * size
    heads, patches_head = recipe.heads.dino, recipe.heads.ibot or recipe.heads.dino
    return (
        backbone({crops.global_size: 2 * size}, 2 * size + masked, 1.0, gradients=False)
        + backbone(student, classes + masked, 1 - recipe.model.drop_path, gradients=True)
        + head(heads) * (2 * size + 3 * classes)
        + head(patches_head) * 4 * masked
    )


if __name__ == "__main__":
    entry_point(main)
