"""Does curation curate? A pool with known concepts, what is selected from it, and what is learnt from the selection.

The pool (tests/benchmarks/_concept_pool.py) is deduplicated with the copy descriptor that ships; then every way of
selection takes as many pictures as a random draw from the whole pool. An oracle that sees the labels shows what could
be had. Entropy is that of the classes among the pictures that are on topic. Gains are differences to the random draw of
the same seed: their mean over the seeds, with Student's 95 % interval.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from scipy import stats

from conf import entry_point
from curation.descriptors.base import EmbedderSpec
from curation.descriptors.loading import load_embedder
from curation.images.ids import image_id
from curation.neighbours.duplicates import preference, resolve
from curation.neighbours.join import join
from curation.whole_files import whole_file
from tests.benchmarks import harness
from tests.benchmarks._concept_pool import NUM_CLASSES, OFF_TOPIC, ConceptPool, class_names, concept_pool, pictures
from tests.benchmarks._concept_pool import queries as query_pictures
from tests.benchmarks._curated_training import Training, accuracies, linked
from tests.benchmarks._ways import BOTH, HIERARCHICAL, RANDOM, RETRIEVAL, WAYS, Material
from tests.benchmarks.copies import described
from tests.conftest import SHARED_DATA

_COPY_THRESHOLD = 0.65  # what suits pictures of 32 pixels (docs/models/copy_descriptor.md)


def main() -> int:
    """Select by every way for every seed, train on two of the selections, and say what was gained."""
    options = _parser().parse_args()
    data, out = Path(options.data), Path(options.out)
    start = time.perf_counter()
    describe = Described(out / "vectors", options.threads)
    rows: list[dict[str, Any]] = []
    runs: dict[str, tuple[Path, int]] = {}
    for seed in range(options.seeds):
        pool = concept_pool(data, out / "pictures", seed)
        asked = query_pictures(data, options.queries, seed)
        material = gathered(pool, asked, describe, options.descriptor, seed)
        for way, select in WAYS.items():
            taken = select(material, options.size)
            rows.append({"seed": seed, "way": way, **facts(pool, taken)})
            if options.steps and way in (RANDOM, RETRIEVAL):
                name = f"{way}_{seed}"
                runs[name] = linked([pool.files[i] for i in taken], out / "selected" / name), seed
        print(f"seed {seed}: {len(pool):,} files, {len(material.kept):,} after deduplication", flush=True)
    print(selection_table(rows))
    keys: dict[str, Any] = {}
    for way, suffix in ((RETRIEVAL, ""), (HIERARCHICAL, "_hierarchical"), (BOTH, "_both")):
        for fact, key in (("entropy_bits", "entropy_gain"), ("on_topic", "on_topic_gain")):
            keys |= interval(key + suffix, differences(rows, fact, way))
    if options.steps:
        found = accuracies(runs, out / "training", _training(options, data, out))
        keys |= interval("knn_gain", [found[f"{RETRIEVAL}_{s}"] - found[f"{RANDOM}_{s}"] for s in range(options.seeds)])
        keys["knn"] = found
        print(training_table(found, keys))
    keys |= {"size": options.size, "steps": options.steps, "rows": rows}
    harness.finish("curation", harness.Timing({harness.OURS: [time.perf_counter() - start]}, {}), keys)
    return 0


class Described:
    """Vectors of files by both descriptors; a file is described once, also over several calls of the benchmark."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        folder.mkdir(parents=True, exist_ok=True)
        self._embedders = {
            "copy": load_embedder(EmbedderSpec(adapter="copy_network")),
            "scene": load_embedder(EmbedderSpec(adapter="classical_scene")),
        }
        self._known = {name: self._read(name) for name in self._embedders}

    def __call__(self, name: str, files: Sequence[Path]) -> np.ndarray:
        """[n, d] float32 of unit length, by the descriptor ``copy`` or ``scene``."""
        known = self._known[name]
        if new := [path for path in dict.fromkeys(files) if str(path) not in known]:
            known.update(zip(map(str, new), described(self._embedders[name], new, self._threads), strict=True))
            held = np.array(list(known)), np.stack(list(known.values()))
            with whole_file(LocalFileSystem(), str(self._place(name))) as file:
                np.savez(file, files=held[0], vectors=held[1])
        return np.stack([known[str(path)] for path in files])

    def _place(self, name: str) -> Path:
        return self._folder / f"{name}_{self._embedders[name].digest[:16]}.npz"

    def _read(self, name: str) -> dict[str, np.ndarray]:
        if not self._place(name).exists():
            return {}
        with np.load(self._place(name), allow_pickle=False) as held:
            return dict(zip(held["files"].tolist(), held["vectors"], strict=True))


def gathered(pool: ConceptPool, asked: Sequence[Path], describe: Described, semantic: str, seed: int) -> Material:
    """What the ways select from: the pool without near-duplicates, described, and the described queries."""
    ids = np.asarray([image_id(path.read_bytes()) for path in pool.files])
    _, first = np.unique(ids, return_index=True)  # by id, each once
    vectors = describe("copy", [pool.files[i] for i in first])
    edges = list(join(vectors, _COPY_THRESHOLD))
    pairs = np.concatenate([np.stack([one.left, one.right], 1) for one in edges])
    similarities = np.concatenate([one.similarity for one in edges])
    sizes = np.asarray([pool.files[i].stat().st_size for i in first])
    side = np.full(len(first), 32)
    components = resolve(ids[first], pairs, similarities, preference(ids[first], side, side, sizes), "witness")
    gone = np.asarray(components["image_id"]) != np.asarray(components["representative"])
    kept = first[~np.isin(ids[first], np.asarray(components["image_id"])[gone])]
    return Material(
        labels=pool.labels,
        kept=kept,
        ids=ids[kept],
        vectors=describe(semantic, [pool.files[i] for i in kept]),
        queries=describe(semantic, asked),
        seed=seed,
    )


def facts(pool: ConceptPool, taken: np.ndarray) -> dict[str, float]:
    """How many pictures, which share of them is on topic, entropy of their classes in bits, share of copies."""
    labels = pool.labels[taken]
    counts = np.bincount(labels[labels != OFF_TOPIC], minlength=NUM_CLASSES)
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return {
        "images": len(taken),
        "on_topic": float((labels != OFF_TOPIC).mean()),
        "entropy_bits": float(-(shares * np.log2(shares)).sum()),
        "copies": float(pool.is_copy[taken].mean()),
    }


def differences(rows: Sequence[Mapping[str, Any]], fact: str, way: str) -> list[float]:
    """What a way has more than the random draw, a value a seed."""
    of = {(row["seed"], row["way"]): row[fact] for row in rows}
    return [of[seed, way] - of[seed, RANDOM] for seed in sorted({row["seed"] for row in rows})]


def interval(key: str, values: Sequence[float]) -> dict[str, float]:
    """``key``: the mean; ``_low`` and ``_high``: Student's 95 % interval of it; not a number for a single value."""
    mean = float(np.mean(values))
    half = float("nan")
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {key: mean, f"{key}_low": mean - half, f"{key}_high": mean + half}


def selection_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Mean facts of every way, with the gains over the random draw."""
    lines = [f"{'':<26}{'images':>8}{'on topic':>10}{'gain':>25}{'entropy':>9}{'gain, bits':>25}{'copies':>8}"]
    for way in WAYS:
        mine = [row for row in rows if row["way"] == way]
        mean = {
            fact: float(np.mean([row[fact] for row in mine]))
            for fact in ("images", "on_topic", "entropy_bits", "copies")
        }
        topic, entropy = (
            _spread(interval("x", differences(rows, fact, way))) if way != RANDOM else ""
            for fact in ("on_topic", "entropy_bits")
        )
        lines.append(
            f"{way:<26}{mean['images']:>8.0f}{mean['on_topic']:>10.3f}{topic:>25}{mean['entropy_bits']:>9.3f}{entropy:>25}"
            f"{mean['copies']:>8.3f}"
        )
    return "\n".join(lines)


def training_table(found: Mapping[str, float], keys: Mapping[str, Any]) -> str:
    """k-NN accuracy by run, and the gain."""
    lines = [f"{name:<20}{100 * accuracy:>8.2f} %" for name, accuracy in found.items()]
    low, high = (100 * keys[f"knn_gain_{end}"] for end in ("low", "high"))
    return "\n".join([*lines, f"curated less random: {100 * keys['knn_gain']:.2f} ({low:.2f} to {high:.2f}) points"])


def _spread(values: Mapping[str, float]) -> str:
    return f"{values['x']:+.3f} ({values['x_low']:+.3f} to {values['x_high']:+.3f})"


def _training(options: argparse.Namespace, data: Path, out: Path) -> Training:
    """The probe asks for the test pictures that were no query of any seed."""
    asked = {path for seed in range(options.seeds) for path in query_pictures(data, options.queries, seed)}
    for name in class_names(data):
        linked([p for p in pictures(data / "cifar10" / "test" / name) if p not in asked], out / "test" / name)
    return Training(options.recipe, options.steps, options.at_once, data / "cifar10" / "train", out / "test")


def _parser() -> argparse.ArgumentParser:
    parser = harness.parser(
        "tests.benchmarks.curation",
        "Class entropy, share on topic and k-NN accuracy of curated subsets beside random ones.",
        "../shared/data --seeds 5 --steps 300 --at-once 2",
        rounds=1,
    )
    parser.add_argument("data", nargs="?", default=str(SHARED_DATA), help="holds cifar10 and tiny_imagenet")
    parser.add_argument("--seeds", type=int, default=5, help="pools, each drawn, selected from and trained on anew")
    parser.add_argument("--descriptor", choices=("copy", "scene"), default="copy", help="of what a picture shows")
    parser.add_argument("--size", type=int, default=1000, help="pictures selected")
    parser.add_argument("--queries", type=int, default=20, help="query pictures a class")
    parser.add_argument("--steps", type=int, default=300, help="of training on a selection; 0: none")
    parser.add_argument("--recipe", default="conf/training/vitt_cifar.yaml", help="of training")
    parser.add_argument("--at-once", type=int, default=1, help="trainings beside each other, which share the cores")
    parser.add_argument("--threads", type=int, default=2, help="that describe pictures")
    parser.add_argument("--out", default="runs/curation", help="for pictures and run folders; trained ones go on")
    return parser


if __name__ == "__main__":
    entry_point(main)
