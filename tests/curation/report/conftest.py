import pytest

from tests.curation.report.synthetic import World


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """A finished run with its release; read-only."""
    made = World(tmp_path_factory.mktemp("world")).write()
    made.write_release()
    made.write_training()
    made.write_evaluation()
    made.write_truth()
    return made
