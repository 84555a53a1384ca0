"""Checkpoints: their format, store and asynchronous saver."""
