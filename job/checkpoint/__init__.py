"""Checkpoints: committed by a manifest, verified when read."""
