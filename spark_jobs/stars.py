"""Connected components of graphs past one machine: alternating large-star and small-star rounds on Spark.

Kiveris et al., "Connected Components in MapReduce and Beyond" (SoCC 2014), section 4. Nodes are ids themselves, so
nothing numbers them and no array holds them; ``curation.neighbours.components`` is faster wherever 4 bytes a node fit.
"""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F


def components(edges: DataFrame, folder: str) -> DataFrame:
    """The lowest id of its component, for every id that has an edge.

    Rounds hang ids under ever lower ids of their component until each component is a star around its lowest: at most
    about log^2 of their number, and log of it in practice. One task gets all rays of a star, so no component should
    hold most of the graph.

    Args:
        edges: columns ``lower_id`` and ``higher_id``, strings; order, direction and repetition do not matter, and
            loops are passed over.
        folder: URI that this call may fill, and that all executors reach. The last two rounds are kept there, since
            Spark would otherwise compute all earlier rounds again in each one.

    Returns:
        Columns ``image_id`` and ``component``, one row an id, read from ``folder`` when it is asked for.
    """
    spark, number = edges.sparkSession, 0
    arcs = edges.where("lower_id != higher_id").select(
        F.greatest("lower_id", "higher_id").alias("id"), F.least("lower_id", "higher_id").alias("lower")
    )
    while number == 0 or not _are_stars(arcs):
        path = f"{folder}/round-{number % 2}"
        _small_star(_large_star(arcs)).write.mode("overwrite").parquet(path)
        arcs, number = spark.read.schema("id string, lower string").parquet(path), number + 1
    centres = arcs.select(F.col("lower").alias("image_id"), F.col("lower").alias("component")).distinct()
    return arcs.select(F.col("id").alias("image_id"), F.col("lower").alias("component")).union(centres)


def _large_star(arcs: DataFrame) -> DataFrame:
    """Every id tells its higher neighbours of its lowest one: an arc (id, lower) becomes (id, lowest of lower's)."""
    lowest = arcs.groupBy(F.col("id").alias("lower")).agg(F.min("lower").alias("lowest"))
    told = arcs.join(lowest, "lower", "left")
    return told.select("id", F.coalesce("lowest", "lower").alias("lower"))


def _small_star(arcs: DataFrame) -> DataFrame:
    """Every id hangs itself and its lower neighbours under the lowest of them."""
    lowest = F.min("lower").over(Window.partitionBy("id"))
    told = arcs.select(F.explode(F.array("id", "lower")).alias("id"), lowest.alias("lower"))
    return told.where("id != lower").distinct()


def _are_stars(arcs: DataFrame) -> bool:
    """Whether no id hangs under two, or under one that hangs itself."""
    ends = arcs.select("id", F.lit(1).alias("hangs"), F.lit(0).alias("holds"))
    ends = ends.unionByName(arcs.select(F.col("lower").alias("id"), F.lit(0).alias("hangs"), F.lit(1).alias("holds")))
    each = ends.groupBy("id").agg(F.sum("hangs").alias("hangs"), F.max("holds").alias("holds"))
    return each.where("hangs + holds > 1").isEmpty()
