"""Vectors that describe images: for finding copies, and for grouping what looks alike."""
