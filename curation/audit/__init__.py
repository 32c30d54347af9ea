"""The audit of a release: from its own files, and with a store also from the lineage. See ``report`` for its form."""
