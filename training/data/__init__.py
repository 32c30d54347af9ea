"""From a release to batches: every batch is a pure function of (seed, step)."""
