"""Train the copy descriptor, and write it as safetensors that say how they were made."""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import conf
from training.copies import losses
from training.copies.config import CopiesConfig, Recipe
from training.copies.data import Pool, Steps, read_pools
from training.copies.network import TrainedNetwork
from training.copies.whiten import start_projection

COMMAND = "python -m training.copies.train conf/training/copy_descriptor.yaml data.root=PICTURES"
CHECKPOINT, WEIGHTS = "checkpoint.pt", "copy_descriptor.safetensors"


def train(settings: CopiesConfig) -> Path:
    """Train to the end of the recipe, from the folder's checkpoint where there is one.

    Returns:
        The safetensors file.

    Raises:
        ValueError: no pictures, or the folder holds a run of another recipe.
    """
    recipe, runtime = settings.recipe, settings.runtime
    folder = Path(settings.output)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(runtime.threads)
    torch.manual_seed(recipe.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pools = read_pools(settings.data)
    network = TrainedNetwork(recipe.network).to(device).to(memory_format=torch.channels_last)
    optimiser = make_optimiser(network, recipe)
    first = _resume(folder / CHECKPOINT, recipe, network, optimiser)
    if first == 0:
        start_projection(network, last_views(pools, recipe, device))
    steps = Steps(pools, recipe, first)
    loader = DataLoader(
        steps,
        batch_size=None,
        num_workers=runtime.workers,
        pin_memory=device.type == "cuda",
        multiprocessing_context="forkserver" if runtime.workers else None,  # as in training.data.loader
    )
    started = time.monotonic()
    for step, (views, contents) in enumerate(loader, start=first):
        for group in optimiser.param_groups:
            group["lr"] = group["peak_lr"] * schedule(recipe, step)
        scalars = update(network, optimiser, views.to(device), contents.to(device), recipe)
        if step % runtime.log_every_steps == 0 or step + 1 == recipe.steps:
            said = "  ".join(f"{name} {value.item():.3f}" for name, value in scalars.items())
            print(f"step {step}/{recipe.steps}  {said}  {time.monotonic() - started:.0f} s", flush=True)
        if (step + 1) % runtime.checkpoint_every_steps == 0 or step + 1 == recipe.steps:
            _save(folder / CHECKPOINT, recipe, network, optimiser, step + 1)
    return export(network, settings, pools, folder / WEIGHTS)


def update(
    network: TrainedNetwork, optimiser: torch.optim.Optimizer, views: Tensor, contents: Tensor, recipe: Recipe
) -> dict[str, Tensor]:
    """One step; returns its scalars, which stay on the device."""
    with torch.autocast(views.device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
        vectors = network(views)
    positive = losses.share_content(contents)
    contrastive = losses.contrastive(vectors, positive, recipe.temperature)
    entropy = losses.entropy(vectors, positive)
    optimiser.zero_grad(set_to_none=True)
    (contrastive + recipe.entropy_weight * entropy).backward()
    optimiser.step()
    return {"contrastive": contrastive.detach(), "entropy": entropy.detach(), "found": _found(vectors, positive)}


def make_optimiser(network: TrainedNetwork, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW over what is trained; the projection, which is new, has a learning rate of its own."""
    descriptor = network.descriptor
    backbone = [parameter for parameter in descriptor.backbone.parameters() if parameter.requires_grad]
    groups = [
        {"params": backbone, "peak_lr": recipe.lr},
        {"params": list(descriptor.projection.parameters()), "peak_lr": recipe.projection_lr},
    ]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=recipe.weight_decay)


def schedule(recipe: Recipe, step: int) -> float:
    """Share of the peak learning rate: a linear warm-up, then half a cosine to zero."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def last_views(pools: list[Pool], recipe: Recipe, device: torch.device) -> Iterator[Tensor]:
    """The views uint8 [n, size, size, 3] of the recipe's last steps, which decide the whitening."""
    steps = Steps(pools, recipe, first=max(0, recipe.steps - recipe.whitening_steps))
    return (steps[i][0].to(device) for i in range(len(steps)))


def export(network: TrainedNetwork, settings: CopiesConfig, pools: list[Pool], path: Path) -> Path:
    """The weights in fp16, with all that is needed to use them and to make them again as metadata."""
    recipe = settings.recipe
    description = {
        "backbone": recipe.network.backbone,
        "options": recipe.network.options,
        "dim": recipe.network.dim,
        "size": settings.descriptor.size,
        "mean": recipe.network.mean,
        "std": recipe.network.std,
        "initial_sha256": recipe.network.initial and recipe.network.initial.sha256,
        "steps": recipe.steps,
        "recipe_digest": conf.digest(recipe),
        "pictures": {pool.name: len(pool.pictures) for pool in pools},
        "command": COMMAND,
    }
    # one key, because safetensors writes several in no fixed order
    metadata = {"copy_descriptor": json.dumps(description, sort_keys=True)}
    tensors = {name: tensor.half().cpu().contiguous() for name, tensor in network.descriptor.state_dict().items()}
    safetensors.torch.save_file(tensors, path, metadata)
    return path


@torch.no_grad()
def _found(vectors: Tensor, positive: Tensor) -> Tensor:
    """Share of views whose nearest other view shares content with them."""
    similarity = (vectors @ vectors.T).fill_diagonal_(-2)
    return positive.gather(1, similarity.argmax(dim=1, keepdim=True)).float().mean()


def _save(path: Path, recipe: Recipe, network: TrainedNetwork, optimiser: torch.optim.Optimizer, step: int) -> None:
    state = {
        "recipe": conf.digest(recipe),
        "step": step,
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def _resume(path: Path, recipe: Recipe, network: TrainedNetwork, optimiser: torch.optim.Optimizer) -> int:
    if not path.exists():
        return 0
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["recipe"] != conf.digest(recipe):
        raise ValueError(f"{path.parent}: holds a run of another recipe; set output=FOLDER or remove it")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    print(f"continuing from step {state['step']}")
    return int(state["step"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"example: {COMMAND}",
    )
    parser.add_argument("recipe", help="a YAML file")
    parser.add_argument("overrides", nargs="*", help="key=value")
    arguments = parser.parse_args()
    path = train(conf.load(CopiesConfig, arguments.recipe, arguments.overrides))
    print(f"wrote {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    conf.entry_point(main)
