"""One built pocket web for all tests of these folders."""

from pathlib import Path

import pytest

from curation.pocket_web import Truth, build


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pocket") / "web"
    build(folder)
    return folder


@pytest.fixture(scope="session")
def truth(web: Path) -> Truth:
    return Truth.read(web / "truth.json")
