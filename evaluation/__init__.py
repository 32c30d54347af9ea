"""Scores of frozen features: features once, then small evaluators over them."""
