"""One Spark session for all tests that need one, and one finished run over the pocket web to look at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conf import load
from curation import pocket_web
from spark_jobs.config import CurationConfig, Runtime, Spark
from spark_jobs.run import STAGES
from spark_jobs.session import session
from spark_jobs.stage import Report, execute
from spark_jobs.tables import Tables


@pytest.fixture(scope="session")
def spark(tmp_path_factory):
    """A session in local mode; what the JVM prints goes to a file."""
    runtime = Runtime(partitions=2, spark=Spark(master="local[2]", driver_memory="1g"))
    with session(runtime, tmp_path_factory.mktemp("spark") / "spark.log") as running:
        yield running


@dataclass(frozen=True)
class Pocket:
    """A pocket web that is being served."""

    web: Path
    port: int

    def overrides(self, out: Path) -> list[str]:
        """What the demo's recipe needs to run on it."""
        return [
            f"store={out / 'store'}",
            f"release={out / 'release'}",
            f"sources.pages=[{self.web / 'warc'},{self.web / 'html'}]",
            f"sources.collections.heldout={self.web / 'heldout'}",
            f"sources.collections.queries={self.web / 'queries'}",
            f'runtime.resolve={{"*.test": "127.0.0.1:{self.port}"}}',
        ]

    def config(self, out: Path, *overrides: str) -> CurationConfig:
        """The demo's recipe on it."""
        return load(CurationConfig, "conf/curation/demo.yaml", [*self.overrides(out), *overrides])


@pytest.fixture(scope="session")
def pocket(tmp_path_factory) -> Iterator[Pocket]:
    web = tmp_path_factory.mktemp("pocket") / "web"
    pocket_web.build(web)
    with pocket_web.serve(web) as server:
        yield Pocket(web, server.port)


RunStages = Callable[..., list[Report]]


@pytest.fixture(scope="session")
def run_stages(spark) -> RunStages:
    """Run the pipeline's stages in the shared session: ``run_stages(config, until=None)``."""

    def run(config: CurationConfig, until: str | None = None) -> list[Report]:
        store, reports = Tables(config.store), []
        for stage in STAGES:
            reports.append(execute(stage, store, config, lambda: spark))
            if stage.name == until:
                break
        return reports

    return run


@dataclass(frozen=True)
class Finished:
    """A whole run: its configuration, store and reports."""

    config: CurationConfig
    store: Tables
    release: Path
    reports: dict[str, Report]


@pytest.fixture(scope="session")
def finished(pocket, run_stages, tmp_path_factory) -> Finished:
    out = tmp_path_factory.mktemp("finished")
    config = pocket.config(out)
    reports = {report.stage: report for report in run_stages(config)}
    return Finished(config, Tables(config.store), Path(config.release), reports)
