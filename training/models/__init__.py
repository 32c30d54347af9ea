"""The backbone and the heads."""
