"""Grouping embeddings into cells."""
