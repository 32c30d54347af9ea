"""Frames that a stage writes down between two steps, so that no step is computed twice; gone when the stage is done."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pyspark.sql import DataFrame

from curation.store import locate
from spark_jobs.stage import Context

FOLDER = "scratch"  # below the store; what a killed run leaves there, the next one or vacuum removes


@dataclass(frozen=True)
class Scratch:
    """A folder of one run."""

    root: str

    def path(self, name: str) -> str:
        """Where a frame lies."""
        return f"{self.root}/{name}"

    def keep(self, name: str, frame: DataFrame) -> DataFrame:
        """The frame as it was written down."""
        frame.write.mode("overwrite").parquet(self.path(name))
        return frame.sparkSession.read.schema(frame.schema).parquet(self.path(name))


@contextmanager
def scratch(context: Context) -> Iterator[Scratch]:
    """A folder for the ``with`` block, gone at its end; what is there before it, a killed run has left."""
    _remove(context.store.path(FOLDER))
    root = context.store.path(FOLDER, context.run.run_id)
    try:
        yield Scratch(root)
    finally:
        _remove(root)


def _remove(uri: str) -> None:
    filesystem, path = locate(uri)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)
