import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

PACKAGE = Path(__file__).resolve().parents[3] / "curation"
CALL = """
import numpy as np
from curation.neighbours.components import connected_components
print(connected_components(3, np.array([[2, 0]])))
"""


def test_works_where_neither_the_package_nor_the_home_can_be_written(tmp_path):
    """A file where each cache folder would be, which stops root too."""
    copy = tmp_path / "curation"
    shutil.copytree(PACKAGE / "neighbours", copy / "neighbours", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "neighbours" / "__pycache__").touch()
    for name in ("__init__.py", "schema.py"):
        shutil.copy(PACKAGE / name, copy)
    (tmp_path / "home").touch()
    home = str(tmp_path / "home")
    environment = {"HOME": home, "XDG_CACHE_HOME": home, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    told = subprocess.run([sys.executable, "-c", CALL], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert told.stdout.strip() == str(np.array([0, 1, 0])), told.stderr
