"""Comparison of the job's training speed with other frameworks.

All programs train the same network with the same batch, precision,
augmentation (random flip and shift by up to 2 pixels, on the device) and
update (SGD, Nesterov momentum, weight decay). Each runs in a separate process
with its own threads and memory allocator. In `frameworks` they train in turn.
"""
