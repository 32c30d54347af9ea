"""Seconds and memory of one update, ours beside the public dinov2 code on the same cores.

Timed are forward, backward, clip, AdamW and the teacher's update on a batch that is ready: 2 global crops of 224 pixels
and 8 local ones of 98, patches of 14, stochastic depth 0.3, half of the global crops masked, heads shared. Each
contender lives in a process of its own, and only one of them works at a time; peak memory is that of the whole process.

Upstream's code has no precision for a CPU, so its step is fp32; ``upstream_autocast`` is the same under
autocast to bf16.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from conf import entry_point
from tests.benchmarks import harness
from tests.benchmarks._upstream_step import UpstreamStep


class Setting(NamedTuple):
    """What both run."""

    arch: str
    batch: int
    prototypes: int
    centering: str
    precision: str


def main() -> int:
    """Run the benchmark."""
    parser = harness.parser(
        "tests.benchmarks.train_step",
        "Seconds and memory of one training step, beside the public dinov2 code.",
        "--arch vit_small --batch 4 --prototypes 4096 --upstream ../dinov2",
    )
    parser.add_argument("--arch", default="vit_small", help="vit_small, vit_base, vit_large or vit_giant2")
    parser.add_argument("--batch", type=int, default=4, help="images a step")
    parser.add_argument("--prototypes", type=int, default=4096, help="K, of the one head that both losses share")
    parser.add_argument(
        "--centering", default="sinkhorn", choices=("sinkhorn", "softmax"), help="of the teacher's scores"
    )
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"), help="ours")
    parser.add_argument("--recompute", action="store_true", help="ours as with runtime.recompute")
    parser.add_argument("--upstream", help="folder of a clone of facebookresearch/dinov2")
    options = parser.parse_args()
    shape = options.arch, options.batch, options.prototypes, options.centering
    keys: dict[str, Any] = dict(zip(("arch", "batch", "prototypes", "centering"), shape, strict=True))
    keys["recompute"] = options.recompute
    timings = []
    for precision in options.precision:
        suffix = "" if precision == "fp32" else f"_{precision}"
        contenders = {"ours": Contender(_ours, Setting(*shape, precision), options.recompute)}
        if options.upstream:
            contenders["upstream"] = Contender(_upstream, Setting(*shape, "fp32"), options.upstream)
            if precision == "bf16":
                contenders["upstream_autocast"] = Contender(_upstream, Setting(*shape, "bf16"), options.upstream)
        try:
            timing = harness.measure({name: one.step for name, one in contenders.items()}, options.rounds)
            peaks = {name: one.peak_rss_bytes() for name, one in contenders.items()}
        finally:
            for one in contenders.values():
                one.end()
        keys |= {f"seconds_per_step{suffix}": timing.median_s(), f"peak_rss_bytes{suffix}": peaks.pop("ours")}
        keys |= {f"{key}{suffix}": value for key, value in timing.speedups().items()}
        for name, peak in peaks.items():
            keys |= {f"seconds_per_step_{name}{suffix}": timing.median_s(name)}
            keys |= {f"peak_rss_bytes_{name}{suffix}": peak}
            keys |= {name.replace("upstream", "memory_ratio") + suffix: keys[f"peak_rss_bytes{suffix}"] / peak}
        timings.append((precision, timing))
    for precision, timing in timings[1:]:
        print(f"{precision}:\n{timing.table()}\n{timings[0][0]}:")
    harness.finish("train_step", timings[0][1], keys)
    return 0


class Contender:
    """A process that makes a step and repeats it when it is asked to."""

    def __init__(self, make: Callable[..., Callable[[], float]], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, *args))
        self._process.start()
        other.close()

    def step(self) -> float:
        """One update; its loss."""
        return self.ask("step")

    def peak_rss_bytes(self) -> int:
        """The most resident memory so far."""
        return self.ask("peak")

    def end(self) -> None:
        """Let the process go."""
        self._pipe.close()
        self._process.join()

    def ask(self, question: str) -> Any:
        """What the method of this name says, of what makes the step."""
        self._pipe.send(question)
        try:
            return self._pipe.recv()
        except EOFError as error:
            raise ValueError("a contender ended before it answered; what it said is above") from error


def _serve(pipe: Connection, make: Callable[..., Callable[[], float]], *args: Any) -> None:
    step = make(*args)
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        if question == "peak":
            pipe.send(harness.own_peak_rss_bytes())
        else:
            pipe.send(step() if question == "step" else getattr(step, question)())


def _ours(setting: Setting, recompute: bool) -> Callable[[], float]:
    from training.config import Recipe
    from training.kernels import Kernels
    from training.schedules import at
    from training.train import Trainer

    recipe = Recipe.model_validate(
        {
            "steps": 1000,
            "batch_size_global": setting.batch,
            "precision": setting.precision,
            "model": {"arch": setting.arch, "patch_size": 14, "image_size": 224, "drop_path": 0.3},
            "heads": {"dino": {"prototypes": setting.prototypes}},
            "losses": {"centering": setting.centering},
        }
    )
    trainer, batch = Trainer(recipe, kernels=Kernels(recompute=recompute)), random_batch(recipe)
    return lambda: float(trainer.update(batch, at(recipe, trainer.step + 1))["loss"])


def random_batch(recipe: Any) -> Any:
    """Random crops under the recipe's masks, as the loader would hand them over."""
    import numpy as np

    from training.data.loader import Batch
    from training.data.masking import batch_masks, max_block

    crops, patch, size = recipe.crops, recipe.model.patch_size, recipe.batch_size_global
    rng = np.random.default_rng(0)
    cap = max_block(crops.global_size, patch)
    masks = torch.from_numpy(batch_masks(2 * size, crops.global_size // patch, cap, recipe.masking, [0]))
    pixels = {
        side: torch.from_numpy(rng.integers(0, 256, (number * size, side, side, 3), dtype=np.uint8))
        for side, number in ((crops.global_size, 2), (crops.local_size, crops.num_local))
    }
    return Batch(
        global_crops=pixels[crops.global_size],
        local_crops=pixels[crops.local_size],
        masks=masks,
        mask_indices=masks.flatten().nonzero().flatten(),
        mask_weights=(1 / masks.sum(1).clamp(min=1)).unsqueeze(1).expand_as(masks)[masks],
        num_unreadable=torch.tensor(0),
        colours=torch.empty(0, 8),
    )


def _upstream(setting: Setting, checkout: str) -> Callable[[], float]:
    return UpstreamStep(checkout, *setting)


if __name__ == "__main__":
    entry_point(main)
