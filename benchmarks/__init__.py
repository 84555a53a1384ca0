"""Frameworks that the job's training speed is compared with.

All programs train the same network with the same batch, precision,
augmentation (random flip and shift by up to 2 pixels, on the device) and
update (SGD, Nesterov momentum, weight decay). Each runs in a process of its
own, with its own threads and memory allocator; `frameworks` lets them train in
turn.
"""
