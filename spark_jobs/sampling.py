"""Random samples that depend on the images alone: those that come first, or last, by id."""

from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

_DIGITS = 8  # of an id: what a share of the ids is told by
_SPARE = 1.2  # times as many as wanted are looked at


def sample(frame: DataFrame, wanted: int, *, last: bool = False) -> list[Row]:
    """As many rows as wanted, in the order of their ids.

    Args:
        frame: column image_id, distinct, and whatever else is wanted.
        wanted: rows, at most.
        last: those that come last, the last one first.
    """
    order = F.col("image_id").desc() if last else F.col("image_id")
    if len(rows := _near_the_end(frame, wanted, last).orderBy(order).limit(wanted).collect()) < wanted:
        rows = frame.orderBy(order).limit(wanted).collect()
    return rows


def _near_the_end(frame: DataFrame, wanted: int, last: bool) -> DataFrame:
    """The rows that a sample is most likely among.

    An id is a hash, so a share of all ids is about that share of the images. Without this, each partition would send
    the driver as many rows as are wanted of all.
    """
    share = _SPARE * wanted / max(frame.count(), 1)
    if share >= 1:
        return frame
    cut = int(share * 16**_DIGITS)
    if last:
        return frame.where(F.col("image_id") >= f"{16**_DIGITS - cut:0{_DIGITS}x}")
    return frame.where(F.col("image_id") < f"{cut:0{_DIGITS}x}")
