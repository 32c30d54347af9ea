"""The engine: one thin Spark script a stage; all Delta commits are made in ``tables.py``."""
