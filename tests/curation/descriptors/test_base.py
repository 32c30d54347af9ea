import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from curation.descriptors.base import EmbedderSpec, unit
from curation.descriptors.loading import load_embedder


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"adapter": "torchscript", "weights": "w.pt"}, "needs the key 'sha256'"),
        ({"adapter": "timm", "weights": "w", "sha256": "0" * 64}, "needs the key 'model'"),
        ({"adapter": "classical_copy", "size": 320}, "no use for the key 'size'"),
        ({"adapter": "torchscript", "weights": "w", "sha256": "0" * 64, "model": "vit"}, "no use for the key 'model'"),
        ({"adapter": "torchscript", "weights": "w", "sha256": "ABC"}, "sha256"),
        ({"adapter": "clip"}, "adapter"),
        (
            {"adapter": "dinov2", "weights": "w", "sha256": "0" * 64, "resize": "squash", "crop_pct": 0.875},
            "crop_pct = 0.875 cuts nothing",
        ),
    ],
)
def test_keys_that_do_not_fit_are_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        EmbedderSpec(**keys)


def test_unit():
    vectors = unit(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("adapter", ["classical_copy", "classical_scene"])
def test_classical_descriptors_say_what_they_are(adapter):
    embedder = load_embedder(EmbedderSpec(adapter=adapter))
    assert embedder.kind == "classical"
    assert embedder.name.startswith(adapter)
    assert len(embedder.digest) == 64


def test_classical_descriptors_do_not_import_torch():
    code = (
        "import sys; from curation.descriptors.loading import *\n"
        "for a in ('classical_copy', 'classical_scene'): load_embedder(EmbedderSpec(adapter=a))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
