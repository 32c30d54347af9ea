"""The trainer: DINOv2's recipe on a release's shards. It imports neither Spark nor Java."""
