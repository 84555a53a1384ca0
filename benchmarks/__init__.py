"""What else people train with, measured beside the job; no tests in here.

The same network, batch, precision, augmentation (random flip, shift by up to 2
pixels, on the device) and update (SGD, Nesterov, weight decay) in each. One
process each, so that none has the other's threads and allocator; `bench` lets
them run in turn.
"""
