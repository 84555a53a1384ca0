"""Comparison of the job's training speed with other frameworks.

All programs train the same network with the same batch and precision. The
augmentation is a random flip and shift by up to 2 pixels, on the device. The
update is SGD with Nesterov momentum and weight decay. Each program runs in a
separate process with its own threads and memory allocator. In `frameworks` they
train in turn.
"""
