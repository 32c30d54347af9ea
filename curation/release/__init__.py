"""A release: WebDataset shards, their index, and a manifest that lets anyone check every byte without the store.

``plan`` says which image goes where, ``shards`` writes one tar, ``manifest`` writes everything beside the tars and
itself last, ``reader`` reads a release back and ``verify`` judges one. The package re-exports nothing: import the
part you need.
"""
