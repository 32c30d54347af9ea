"""Score a backbone: features once, then weighted k-NN beside two baselines under the same protocol."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from conf import digest, entry_point, load
from evaluation import dataset, features, records
from evaluation.config import Evaluation, usable_ks
from evaluation.dataset import ClassFolders
from training import knn

EXAMPLE = "example:\n  python -m evaluation.run conf/evaluation/demo.yaml model=runs/demo/training protocol.k=[10,20]"


def main() -> int:
    """Entry point of ``python -m evaluation.run``."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.run",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a YAML file of conf/evaluation/")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides of the recipe")
    arguments = parser.parse_args()
    evaluate(load(Evaluation, arguments.recipe, arguments.overrides))
    return 0


def evaluate(config: Evaluation) -> dict[str, Any]:
    """Evaluate, write ``results.json``, ``results.md`` and ``predictions.parquet``, and return the document.

    Nothing is computed where the output already holds the results of this model, protocol and data.

    Raises:
        ValueError: no CUDA device where one is asked for, or a damaged model, data set or output.
    """
    output, runtime = Path(config.output), config.runtime
    if runtime.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("runtime.device = 'cuda': no CUDA device is visible; use runtime.device=cpu")
    data = dataset.read(config.data)
    ks = usable_ks(config.protocol.k, len(data.train.paths))
    trained, model, normalisation = features.trained(config.model, config.protocol.crop, runtime.device)
    identity = {
        "model_sha256": trained.sha256,
        "protocol_hash": digest(config.protocol),
        "dataset_fingerprint": data.fingerprint,
    }
    done = records.read_results(output)
    if done is not None and done["identity"] == identity:
        print(f"{output / 'results.json'}: already holds this model, protocol and data; nothing to do")
        return done

    extractors = [trained, features.random_init(model, config.protocol.seed, runtime.device), features.raw_pixels()]
    train = features.extract(data.train.paths, extractors, normalisation, config.protocol, runtime, "train features")
    test = features.extract(data.test.paths, extractors, normalisation, config.protocol, runtime, "test features")
    labels, train_labels = data.test.labels, torch.from_numpy(data.train.labels).to(runtime.device)
    rows, tables, correct, commit = [], [], {}, records.commit()
    for extractor in extractors:
        start = time.perf_counter()
        (bank, bank_s), (queries, queries_s) = train[extractor.name], test[extractor.name]
        votes = knn.votes(bank, train_labels, queries, len(data.classes), ks, config.protocol.temperature)
        seconds = bank_s + queries_s + time.perf_counter() - start
        for k, table in votes.items():
            predicted = table.cpu().numpy().argmax(axis=1)
            correct[extractor.name, k] = predicted == labels
            tables.append(_predictions(extractor.name, k, data, predicted, table.cpu().numpy()))
            rows.append(
                records.accuracy_record(
                    correct[extractor.name, k],
                    model=extractor.name,
                    model_sha256=extractor.sha256,
                    protocol=f"knn-{k}",
                    protocol_hash=identity["protocol_hash"],
                    k=k,
                    dataset=data.name,
                    dataset_fingerprint=data.fingerprint,
                    split=data.test.name,
                    seed=extractor.seed,
                    dtype=config.protocol.dtype,
                    resolution=config.protocol.crop,
                    wall_time_s=round(seconds, 3),
                    commit=commit,
                )
            )
    by_key = {(row["model"], row["k"]): row for row in rows}
    document = {
        "format": "openlvd-results/1",
        "identity": identity,
        "commit": commit,
        "protocol": {
            **config.protocol.model_dump(),
            "feature": "final CLS token, L2-normalised",
            "random_init": "layer scale 1",
            "k_used": ks,
        },
        "dataset": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "num_classes": len(data.classes),
            "num_train": len(data.train.paths),
            "num_test": len(data.test.paths),
            "num_test_identical_to_train": data.num_identical,
        },
        "records": rows,
        "comparisons": [
            records.compare(by_key["trained", k], by_key[b.name, k], correct["trained", k], correct[b.name, k])
            for b in extractors[1:]
            for k in ks
        ],
    }
    _write(output, document, pa.concat_tables(tables))
    return document


def _predictions(model: str, k: int, data: ClassFolders, predicted: np.ndarray, votes: np.ndarray) -> pa.Table:
    """One row per test image: the answer, and its share of the votes of the k neighbours."""
    share = votes.max(axis=1) / votes.sum(axis=1)
    names = np.array(data.classes)
    return pa.table(
        {
            "model": pa.array([model] * len(predicted)),
            "k": pa.array([k] * len(predicted), pa.int32()),
            "image": pa.array(data.test.keys),
            "sha256": pa.array(data.test.digests),
            "label": pa.array(names[data.test.labels]),
            "predicted": pa.array(names[predicted]),
            "share": pa.array(share, pa.float32()),
        }
    )


def _write(output: Path, document: dict[str, Any], predictions: pa.Table) -> None:
    """Results last: their presence says that the rest is there."""
    output.mkdir(parents=True, exist_ok=True)
    pq.write_table(predictions, output / "predictions.parquet.partial")
    (output / "predictions.parquet.partial").replace(output / "predictions.parquet")
    text = records.markdown(document)
    records.write_text(output / "results.md", text)
    records.write_text(output / "results.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
    print(text + f"\nwrote {output / 'results.json'}")


if __name__ == "__main__":
    entry_point(main)
