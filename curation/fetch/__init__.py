"""Guarded fetching: who may be asked, how, and what is written of the answers."""
