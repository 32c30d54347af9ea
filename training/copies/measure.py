"""Measure a descriptor on labelled copies: micro-AP, recall at 90 % precision, recall on natural duplicates.

Folders as in docs/models/copy_descriptor.md. Prints one JSON object.
"""

import argparse
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

import conf
from training.copies.config import Network
from training.copies.network import MEAN, STD, CopyNetwork, gem

Vectors = np.ndarray  # float32 [n, dim], unit length
Describe = Callable[[Sequence[Path]], Vectors]


class Descriptor:
    """A descriptor file, at a size of the caller's choice; ``mirror`` adds up a picture's and its mirror image's."""

    def __init__(self, path: Path, size: int | None = None, mirror: bool = True) -> None:
        self.mirror = mirror
        with safe_open(path, "pt") as file:
            made = json.loads(file.metadata()["copy_descriptor"])
        network = CopyNetwork(Network(backbone=made["backbone"], options=made["options"], dim=made["dim"]))
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load_file(path).items()}
        self.weight, self.bias = tensors.pop("projection.weight"), tensors.pop("projection.bias")
        self.backbone = network.backbone.eval()
        self.backbone.load_state_dict(
            {name.removeprefix("backbone."): tensor for name, tensor in tensors.items()}, strict=False
        )
        self.size = size or made["size"]

    @torch.inference_mode()
    def __call__(self, paths: Sequence[Path]) -> Vectors:
        """Unit vectors of picture files, in their order."""
        found = []
        for start in range(0, len(paths), 64):
            pictures = np.stack([self._pixels(path) for path in paths[start : start + 64]])
            pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)
            vectors = self._forward(pixels)
            if self.mirror:
                vectors = F.normalize(vectors + self._forward(pixels.flip(3)), dim=1)
            found.append(vectors.numpy())
        return np.concatenate(found)

    def _forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.linear(gem(self.backbone(pixels)), self.weight, self.bias), dim=1)

    def _pixels(self, path: Path) -> np.ndarray:
        with Image.open(path) as image:
            squashed = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return (np.asarray(squashed, np.float32) / 255 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)


def micro_ap(scores: np.ndarray, right: np.ndarray, num_positives: int) -> float:
    """Average precision of all (query, reference) candidates in one ranking."""
    right = right[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    return float((precision * right).sum() / num_positives)


def recall_at_precision(
    scores: np.ndarray, right: np.ndarray, num_positives: int, precision: float = 0.9
) -> tuple[float, float]:
    """Greatest recall at which the ranking is still so precise, and its threshold."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    good = np.flatnonzero(hits / np.arange(1, len(order) + 1) >= precision)
    return (float(hits[good[-1]] / num_positives), float(scores[order[good[-1]]])) if len(good) else (0.0, 1.0)


def measure(vectors: Describe, root: Path) -> dict[str, object]:
    """Every number of the card that the folder can give."""
    report: dict[str, object] = {}
    references = sorted((root / "imagenet_samples/resized").iterdir())
    names = [f"imagenet_samples/resized/{path.name}" for path in references]
    truth = _rows(root / "copy_detection/ground_truth.tsv")
    base = vectors(references)
    queries = vectors([root / "copy_detection/queries" / row["query"] for row in truth])
    similarity = queries @ base.T
    right = np.array([[row["reference"] == name for name in names] for row in truth])
    num = int(right.any(axis=1).sum())
    best = similarity.argmax(axis=1)
    rows = np.arange(len(truth))
    recall, threshold = recall_at_precision(similarity.ravel(), right.ravel(), num)
    report["copy_detection"] = {
        "micro_ap": micro_ap(similarity.ravel(), right.ravel(), num),
        "recall_at_p90": recall,
        "threshold_at_p90": threshold,
        "top1": float(right[rows, best][right.any(axis=1)].mean()),
    }
    kinds: dict[str, dict[str, float]] = {}
    for kind in sorted({row["transform"] for row in truth}):
        of = np.array([row["transform"] == kind for row in truth])
        known = of & right.any(axis=1)
        true_score = similarity[known][right[known]]
        kinds[kind] = {
            "micro_ap": micro_ap(similarity[of].ravel(), right[of].ravel(), int(known.sum())),
            "top1": float(right[rows, best][known].mean()),
            "recall_at_threshold": float((true_score >= threshold).mean()),
            "median_similarity": float(np.median(true_score)),
        }
    report["transforms"] = kinds
    report["negatives"] = _quantiles(similarity[~right])
    between = base @ base.T
    report["references_among_themselves"] = _quantiles(between[np.triu_indices(len(base), 1)])
    report["natural"] = _natural(vectors, root, threshold)
    report["crossres"] = _crossres(vectors, root, base, names, threshold)
    return report


def _natural(vectors: Describe, root: Path, threshold: float) -> dict[str, object]:
    paths = sorted((root / "web_animals/images").iterdir())
    place = {path.name: i for i, path in enumerate(paths)}
    found = vectors(paths)
    similarity = found @ found.T
    pairs = [(place[r["a"]], place[r["b"]], r["kind"]) for r in _rows(root / "web_animals/near_duplicates.tsv")]
    copies = [(a, b) for a, b, kind in pairs if kind not in ("not_duplicate", "same_scene")]
    others = np.triu(np.ones_like(similarity, dtype=bool), 1)
    for a, b, _ in pairs:
        others[min(a, b), max(a, b)] = False
    background = similarity[others]
    return {
        "pairs": [
            {
                "kind": kind,
                "similarity": float(similarity[a, b]),
                "false_pairs_above": int((background >= similarity[a, b]).sum()),
            }
            for a, b, kind in pairs
        ],
        "recall_at_threshold": float(np.mean([similarity[a, b] >= threshold for a, b in copies])),
        "false_pairs_at_threshold": int((background >= threshold).sum()),
        "others": _quantiles(background),
    }


def _crossres(vectors: Describe, root: Path, base: Vectors, names: list[str], threshold: float) -> dict[str, float]:
    pairs = _rows(root / "crossres_duplicates/pairs.tsv")
    similarity = vectors([root / row["small"] for row in pairs]) @ base.T
    true = np.array([names.index(row["large"]) for row in pairs])
    own = similarity[np.arange(len(pairs)), true]
    return {
        "top1": float((similarity.argmax(axis=1) == true).mean()),
        "recall_at_threshold": float((own >= threshold).mean()),
        "median_similarity": float(np.median(own)),
    }


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {f"q{q}": float(np.quantile(values, q)) for q in (0.5, 0.99, 0.999, 0.9999, 0.99999)}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python -m training.copies.measure copy_descriptor.safetensors PICTURES"
    )
    parser.add_argument("weights", type=Path)
    parser.add_argument("pictures", type=Path, help="the folder that holds copy_detection/ and the others")
    parser.add_argument("--size", type=int, help="pixels of the square input; by default the file's")
    parser.add_argument("--mirror", action=argparse.BooleanOptionalAction, default=True, help="add the mirror image's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    report = measure(Descriptor(arguments.weights, arguments.size, arguments.mirror), arguments.pictures)
    print(json.dumps(report))


if __name__ == "__main__":
    conf.entry_point(main)
