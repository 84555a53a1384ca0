"""Checkpoints that a manifest commits, and that are checked when read."""
