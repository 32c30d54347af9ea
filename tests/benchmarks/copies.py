"""Copy descriptors on labelled copies: ours beside pHash and dHash (imagededup) and fastdup.

All candidates of all queries make one ranking: micro-AP and recall at 90 % precision, in all and by edit, with the
middle 95 % of 1,000 resamplings of the pictures. ``copy_detection`` is the folder's own; ``further`` are 30 more edits
of pictures that the training holds out, drawn with a seed. Recall of 64-pixel and of natural copies is taken at the
threshold at which ``copy_detection`` has 90 % precision. A peer that no Python at hand holds is null.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conf import entry_point
from curation.descriptors.base import Embedder, EmbedderSpec
from curation.descriptors.copy_network import WEIGHTS, load_copy_network
from curation.descriptors.loading import load_embedder
from curation.descriptors.worker import Effort, embed_batch
from curation.neighbours import normalise
from tests.benchmarks import _copy_peers, harness
from tests.benchmarks._copy_edits import EDITS
from tests.benchmarks._copy_sets import (
    EXACT,
    RETOUCHED,
    CopySet,
    PairSet,
    background,
    copy_detection,
    crossres,
    dedup_cases,
    further_edits,
    natural,
    natural_small,
)
from tests.conftest import SHARED_DATA
from training.copies import scores

MAX_PIXELS = 100_000_000
BATCH = 64
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(4, 17))
Describe = Callable[[Sequence[Path]], np.ndarray]  # files to [n, d] float32 of unit length, zeros for an unreadable one


@dataclass(frozen=True)
class Sets:
    """All that is measured."""

    copy_detection: CopySet
    further: CopySet
    crossres: CopySet
    natural: PairSet
    natural_small: PairSet
    dedup_cases: PairSet
    background: list[Path]

    def files(self) -> list[Path]:
        """Every file once, in a fixed order."""
        sets = (self.copy_detection, self.further, self.crossres)
        listed = [path for one in sets for path in (*one.queries, *one.references)]
        listed += [*self.natural.pictures, *self.natural_small.pictures, *self.dedup_cases.pictures, *self.background]
        return list(dict.fromkeys(listed))


def main() -> int:
    """Run the benchmark."""
    options = _parser().parse_args()
    contenders = named_contenders(options)
    with tempfile.TemporaryDirectory() as folder:
        sets = Sets(
            copy_detection(options.data),
            further_edits(options.data, Path(folder), options.seed, options.edits),
            crossres(options.data),
            natural(options.data),
            natural_small(options.data),
            dedup_cases(options.data),
            background(options.data, options.background),
        )
        found = {name: scored(describe, sets) for name, describe in contenders.items()}
    queries = sets.copy_detection.queries
    timing = harness.measure(
        {name: lambda describe=describe: describe(queries) for name, describe in contenders.items()}, options.rounds
    )
    for name, row in found.items():
        row["images_per_s"] = len(queries) / timing.median_s(name)
    print(table(found))
    ours = found[harness.OURS]
    keys: dict[str, Any] = {
        "micro_ap": ours["copy_detection"]["micro_ap"],
        "recall_at_p90": ours["copy_detection"]["recall_at_p90"],
        "recall_crossres": ours["crossres"]["recall"],
        "recall_natural": ours["natural"]["recall"],
        "recall_natural_small": ours["natural_small"]["recall"],
        "micro_ap_further": ours["further"]["micro_ap"],
    }
    for peer in _copy_peers.PACKAGES:
        keys[f"micro_ap_{peer}"] = found[peer]["copy_detection"]["micro_ap"] if peer in found else None
    harness.finish("copies", timing, keys | {"contenders": found})
    return 0


def named_contenders(options: argparse.Namespace) -> dict[str, Describe]:
    """Ours, what ``--embedder`` adds, and the peers that some Python holds."""
    digest = hashlib.sha256(options.weights.read_bytes()).hexdigest()
    embedders: dict[str, Embedder] = {harness.OURS: load_copy_network(options.weights, digest, options.size)}
    for text in options.embedder:
        spec = EmbedderSpec.model_validate_json(text)
        embedders[f"{spec.adapter}_{len(embedders)}"] = load_embedder(spec)
    named: dict[str, Describe] = {
        name: lambda paths, e=one: described(e, paths, options.threads) for name, one in embedders.items()
    }
    for peer, package in _copy_peers.PACKAGES.items():
        pythons = [python for python in (*options.peers_python, sys.executable) if _holds(python, package)]
        if pythons:
            named[peer] = lambda paths, p=peer, python=pythons[0]: by_peer(p, python, paths)
    return named


def described(embedder: Embedder, paths: Sequence[Path], threads: int = 1) -> np.ndarray:
    """[n, dim] float32 vectors as the pipeline's worker stores them; zeros for a file that cannot be decoded."""
    vectors = np.zeros((len(paths), embedder.dim), np.float32)

    def batch(start: int) -> None:
        encoded = [(str(path), path.read_bytes()) for path in paths[start : start + BATCH]]
        for place, row in enumerate(embed_batch(encoded, embedder, MAX_PIXELS, Effort()), start):
            if row["vector"] is not None:
                vectors[place] = np.frombuffer(row["vector"], "<f2")

    # batches side by side, as the worker does: threads inside of one wait for each other on a busy machine
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in pool.map(batch, range(0, len(paths), BATCH)):
            pass
    return vectors


def by_peer(peer: str, python: str, paths: Sequence[Path]) -> np.ndarray:
    """Vectors that a peer gives in a Python of its own.

    Raises:
        ValueError: the peer failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        listing, out = Path(folder) / "paths.txt", Path(folder) / "vectors.npy"
        listing.write_text("".join(f"{path.absolute()}\n" for path in paths), encoding="utf-8")
        command = [python, _copy_peers.__file__, peer, str(listing), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if not out.exists():
            raise ValueError(f"{peer} failed in {python}: {done.stderr.strip()[-500:]}; leave that --peers-python out")
        return np.load(out, allow_pickle=False)


def scored(describe: Describe, sets: Sets) -> dict[str, Any]:
    """Every measure of one contender."""
    files = sets.files()
    rows = describe(files)
    vectors = dict(zip(files, rows, strict=True))
    base = _copies(vectors, sets.copy_detection)
    threshold = base["threshold_at_p90"]
    told: dict[str, Any] = {
        "unreadable": int((~rows.any(axis=1)).sum()),
        "copy_detection": base,
        "further": _copies(vectors, sets.further),
        "crossres": _crossres(vectors, sets.crossres, threshold),
        "natural": _natural(vectors, sets.natural, threshold),
        "natural_small": _natural(vectors, sets.natural_small, threshold),
        "dedup_cases": _dedup_cases(vectors, sets.dedup_cases, threshold),
        "at_threshold": _at_thresholds(vectors, sets),
    }
    if sets.background:
        told["normalised"] = _normalised(vectors, sets)
    return told


def _copies(vectors: dict[Path, np.ndarray], copies: CopySet) -> dict[str, Any]:
    similarity, right = _similarity(vectors, copies), copies.right()
    told: dict[str, Any] = scores.figures(scores.rank(similarity, right, copies.sources))
    best = similarity.argmax(axis=1)
    by_edit = {}
    for kind in sorted(set(copies.kinds)):
        of = copies.of_kind(kind)
        known = of & (copies.truth >= 0)
        by_edit[str(kind)] = {
            **scores.figures(scores.rank(similarity[of], right[of], copies.sources[of])),
            "recall_at_common_threshold": float((similarity[right & of[:, None]] >= told["threshold_at_p90"]).mean()),
            "first": float((best[known] == copies.truth[known]).mean()),
            "median_similarity": float(np.median(similarity[right & of[:, None]])),
        }
    return told | {"edits": by_edit}


def _crossres(vectors: dict[Path, np.ndarray], copies: CopySet, threshold: float) -> dict[str, Any]:
    similarity = _similarity(vectors, copies)
    own = similarity[copies.right()]
    return {
        "recall": float((own >= threshold).mean()),
        "first": float((similarity.argmax(axis=1) == copies.truth).mean()),
        **scores.figures(scores.rank(similarity, copies.right(), copies.sources)),
    }


def _natural(vectors: dict[Path, np.ndarray], pairs: PairSet, threshold: float) -> dict[str, Any]:
    """Recall of the listed pairs; a false pair is one that is not listed, or listed as no duplicate."""
    found = _stack(vectors, pairs.pictures)
    similarity = found @ found.T
    own = similarity[pairs.pairs[:, 0], pairs.pairs[:, 1]]
    exact, retouched = np.isin(pairs.kinds, EXACT), np.isin(pairs.kinds, RETOUCHED)
    false = np.triu(np.ones_like(similarity, bool), 1)
    a, b = pairs.pairs[pairs.kinds != "not_duplicate"].T
    false[a, b] = False
    return {
        "recall": float((own[exact | retouched] >= threshold).mean()),
        "recall_exact": float((own[exact] >= threshold).mean()),
        "false_pairs": int((similarity[false] >= threshold).sum()),
        "num_pairs": int((exact | retouched).sum()),
        "pairs": [
            {"kind": str(kind), "similarity": float(s), "false_pairs_above": int((similarity[false] >= s).sum())}
            for kind, s in zip(pairs.kinds, own, strict=True)
        ],
    }


def _dedup_cases(vectors: dict[Path, np.ndarray], pairs: PairSet, threshold: float) -> dict[str, Any]:
    found = _stack(vectors, pairs.pictures)
    own = (found[pairs.pairs[:, 0]] * found[pairs.pairs[:, 1]]).sum(axis=1)
    copies = pairs.kinds == "copy"
    return {
        "recall": float((own[copies] >= threshold).mean()),
        "false_pairs": int((own[~copies] >= threshold).sum()),
        "least_similar_copy": float(own[copies].min()),
        "most_similar_different": float(own[~copies].max()),
    }


def _at_thresholds(vectors: dict[Path, np.ndarray], sets: Sets) -> dict[str, dict[str, float]]:
    """Recall and false pairs at fixed thresholds: from these a threshold for use is chosen."""
    told = {}
    for name, copies in (("copy_detection", sets.copy_detection), ("further", sets.further)):
        similarity, right = _similarity(vectors, copies), copies.right()
        for threshold in THRESHOLDS:
            above = similarity >= threshold
            row = told.setdefault(f"{threshold:.2f}", {})
            row[f"recall_{name}"] = float(above[right].mean())
            row[f"false_{name}"] = int((above & ~right).sum())
    pictures = _stack(vectors, sets.natural.pictures)
    pairs = (pictures @ pictures.T)[np.triu_indices(len(pictures), 1)]
    references = _stack(vectors, sets.copy_detection.references)
    among = (references @ references.T)[np.triu_indices(len(references), 1)]
    for key, row in told.items():
        row["pairs_web_animals"] = int((pairs >= float(key)).sum())
        row["pairs_references"] = int((among >= float(key)).sum())
    return told


def _normalised(vectors: dict[Path, np.ndarray], sets: Sets) -> dict[str, Any]:
    """Both measures after score normalisation: the query's bias alone (``query``), or half of both (``both``)."""
    behind = _stack(vectors, sets.background)
    told: dict[str, Any] = {"background": len(behind)}
    for name, copies in (("copy_detection", sets.copy_detection), ("further", sets.further)):
        similarity, right = _similarity(vectors, copies), copies.right()
        of_query = normalise.bias(_stack(vectors, copies.queries), behind)[:, None]
        of_reference = normalise.bias(_stack(vectors, copies.references), behind)[None, :]
        for mode, biases in (("query", (of_query,)), ("both", (of_query, of_reference))):
            better = normalise.normalised(similarity, *biases)
            told[f"{name}_{mode}"] = scores.figures(scores.rank(better, right, copies.sources))
    return told


def _similarity(vectors: dict[Path, np.ndarray], copies: CopySet) -> np.ndarray:
    return _stack(vectors, copies.queries) @ _stack(vectors, copies.references).T


def _stack(vectors: dict[Path, np.ndarray], paths: Sequence[Path]) -> np.ndarray:
    return np.stack([vectors[path] for path in paths])


def table(found: dict[str, dict[str, Any]]) -> str:
    """Micro-AP and recall at 90 % precision by edit, a column a contender, and the rest below."""
    names = list(found)
    ours = found[harness.OURS]
    rows: list[tuple[str, list[str]]] = [("micro-AP / recall at 90 % precision", names)]
    for part in ("copy_detection", "further"):
        rows.append((part, [_both(found[name][part]) for name in names]))
        rows += [
            (f"  {edit}", [_both(found[name][part]["edits"][edit]) for name in names]) for edit in ours[part]["edits"]
        ]
    ways = [way for way in ours.get("normalised", {}) if way != "background"]
    rows += [(f"normalised {way}", [_both(found[name]["normalised"][way]) for name in names]) for way in ways]
    rows += [
        (f"{part} {key}", [f"{found[name][part][key]:.3g}" for name in names])
        for part, key in (
            ("crossres", "recall"), ("crossres", "first"),
            ("natural", "recall"), ("natural", "recall_exact"), ("natural", "false_pairs"),
            ("natural_small", "recall"), ("natural_small", "false_pairs"),
            ("dedup_cases", "recall"), ("dedup_cases", "false_pairs"),
        )
    ]  # fmt: skip
    rows += [(key, [f"{found[name][key]:.4g}" for name in names]) for key in ("unreadable", "images_per_s")]
    rows.append(("", []))
    rows.append(("ours at a threshold", list(next(iter(ours["at_threshold"].values())))))
    rows += [(key, [f"{value:.3g}" for value in row.values()]) for key, row in ours["at_threshold"].items()]
    return "\n".join(f"{head:<36}" + "".join(f"{cell:>23}" for cell in cells) for head, cells in rows)


def _both(row: dict[str, float]) -> str:
    return f"{row['micro_ap']:.3f} / {row['recall_at_p90']:.3f}"


def _holds(python: str, package: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({package!r}) is None)"
    try:
        return subprocess.run([python, "-c", code], check=False).returncode == 0
    except OSError as error:
        raise ValueError(
            f"--peers-python {python}: cannot be run ({error}); give the python of an environment"
        ) from error


def _parser() -> argparse.ArgumentParser:
    example = "--peers-python peers/bin/python ../shared/data"
    parser = harness.parser("tests.benchmarks.copies", __doc__ or "", example, rounds=1)
    parser.add_argument("data", type=Path, nargs="?", default=SHARED_DATA, help="folder of the real data")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="our descriptor: a file of training.copies.train")
    parser.add_argument("--size", type=int, help="pixels of our square input; by default the file's")
    parser.add_argument("--embedder", action="append", default=[], help="another one: its specification as JSON")
    parser.add_argument("--peers-python", action="append", default=[], help="a Python that holds imagededup or fastdup")
    parser.add_argument(
        "--background", action="append", default=[], help="folder below data whose pictures normalise scores"
    )
    parser.add_argument(
        "--edits", nargs="+", choices=EDITS, default=list(EDITS), metavar="EDIT", help="the further ones"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the further edits")
    parser.add_argument("--threads", type=int, default=2, help="batches described at once")
    return parser


if __name__ == "__main__":
    entry_point(main)
