"""One Spark session: local mode by default, a test cluster, or whatever ``spark-submit`` brings."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pyspark import SparkConf, SparkContext
from pyspark.errors import PySparkRuntimeError
from pyspark.java_gateway import launch_gateway
from pyspark.sql import SparkSession

from spark_jobs.config import Runtime
from spark_jobs.java import find_java


def _properties(runtime: Runtime) -> dict[str, str]:
    return {
        "spark.app.name": "openlvd",
        "spark.sql.shuffle.partitions": str(runtime.partitions),
        "spark.default.parallelism": str(runtime.partitions),
        # a partition is a unit of work here, not of bytes: let no rule merge or split them
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1000",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # one task, one core: libraries must not start threads of their own beside Spark's
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
        "spark.python.worker.faulthandler.enabled": "true",
        **runtime.spark.options,
    }


@contextmanager
def session(runtime: Runtime, log_file: Path) -> Iterator[SparkSession]:
    """A session for the ``with`` block; what the JVM prints goes to ``log_file``, not to the terminal.

    Under ``spark-submit`` the master, the memory and the JVM are those it was given.

    Raises:
        ValueError: no Java 17 or later is found (local start only).
    """
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if submitted:
        builder = SparkSession.builder
        for key, value in _properties(runtime).items():
            builder = builder.config(key, value)
        spark = builder.getOrCreate()
        spark.sparkContext.setLogLevel("ERROR")
        yield spark
        spark.stop()
        return
    os.environ["JAVA_HOME"] = str(find_java())
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    conf = SparkConf()
    conf.setMaster(runtime.spark.master)
    conf.set("spark.driver.memory", runtime.spark.driver_memory)
    for key, value in _properties(runtime).items():
        conf.set(key, value)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        context = _context(conf, log)
        try:
            yield SparkSession(context)
        finally:
            context.stop()
            _end_gateway()


def _context(conf: SparkConf, log: IO[bytes]) -> SparkContext:
    try:
        gateway = launch_gateway(conf, popen_kwargs={"stdout": log, "stderr": log})
    except PySparkRuntimeError as error:
        raise OSError(f"Spark's JVM did not start; {log.name} says why") from error
    context = SparkContext(gateway=gateway, conf=conf)
    context.setLogLevel("WARN")
    return context


def _end_gateway() -> None:
    """Let the next session of this process start a JVM of its own, with its own memory and log."""
    gateway = SparkContext._gateway
    if gateway is None:
        return
    process = getattr(gateway, "proc", None)
    gateway.shutdown()
    SparkContext._gateway = None
    SparkContext._jvm = None
    if process is not None:
        process.stdin.close()  # the JVM ends when its standard input does
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:  # on a busy machine; its work is done and the tables are written
            process.kill()
            process.wait()
