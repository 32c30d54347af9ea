"""Vectors of pictures by a peer: run by the Python that holds the peer, so it imports nothing of ours.

    PYTHON _copy_peers.py phash|dhash|fastdup LIST OUT.npy

LIST has a path a line; OUT is float32 [paths, d], rows of unit length, zeros where the peer refuses a picture. Of a
hash, each bit is a value of one sign or the other, so the inner product falls with the Hamming distance.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

PACKAGES = {"phash": "imagededup", "dhash": "imagededup", "fastdup": "fastdup"}
FASTDUP_DIM = 576


def hashes(paths: list[str], name: str) -> np.ndarray:
    """64-bit hashes of imagededup."""
    from imagededup.methods import DHash, PHash

    method = {"phash": PHash, "dhash": DHash}[name](verbose=False)
    rows = np.zeros((len(paths), 64), np.float32)
    for row, path in zip(rows, paths):  # noqa: B905  (any Python)
        told = method.encode_image(image_file=path)
        if told is not None:
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(told), np.uint8))
            row[:] = (2.0 * bits - 1) / 8
    return rows


def fastdup_vectors(paths: list[str]) -> np.ndarray:
    """Features of fastdup's own network; it compares them by their cosine."""
    os.environ["SENTRY_OPT_OUT"] = "1"  # it would report home
    import fastdup

    rows = np.zeros((len(paths), FASTDUP_DIM), np.float32)
    places: dict[str, list[int]] = {}
    for place, path in enumerate(paths):
        places.setdefault(path, []).append(place)
    with tempfile.TemporaryDirectory() as folder:
        fastdup.run(input_dir=list(places), work_dir=folder, run_mode=1)
        names, features = fastdup.load_binary_feature(str(Path(folder) / "atrain_features.dat"), d=FASTDUP_DIM)
    for name, vector in zip(names, features):  # noqa: B905
        rows[places[name]] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return rows


if __name__ == "__main__":
    peer, listing, out = sys.argv[1:]
    wanted = Path(listing).read_text(encoding="utf-8").splitlines()
    np.save(out, fastdup_vectors(wanted) if peer == "fastdup" else hashes(wanted, peer))
