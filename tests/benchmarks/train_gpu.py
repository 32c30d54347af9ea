"""One training step on one GPU, ours beside the public dinov2 code: images/s, MFU, memory, the wait for data.

The shape is that of ``conf/training/vitl14.yaml``: 2 global crops of 224 pixels and 8 local ones of 98, patches of 14,
SwiGLU, stochastic depth 0.4, half of the global crops masked, two heads of K prototypes, Sinkhorn. Ours computes in
bf16; upstream's in fp16 with a scaled loss, as its configuration says, with xformers where it is installed. Timed are
updates on a batch that is on the device. Both live on the device at once, in a process each, and one works at a time.

MFU is what the method needs (``training.models.flops``) over what the device could do by its data sheet. The wait for
data is the share of a loop in which the device has no batch yet: pictures of 500 x 375 pixels through the real loader.
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
from training.models.flops import step_flops
from training.watch.machine import peak

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
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16; by default by its data sheet")
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
    most = peak(torch.device(options.device), "bf16", options.peak_tflops)
    flops_per_s = step_flops(recipe_of(setting)) * setting.updates / timing.median_s()
    keys: dict[str, Any] = {
        **setting._asdict(),
        "device": name or "cpu",
        "peak": most.words,
        **told,
        "images_per_s": images / timing.median_s(),
        "tflops": flops_per_s / 1e12,
        "mfu": flops_per_s / most.flops_per_s,
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


if __name__ == "__main__":
    entry_point(main)
