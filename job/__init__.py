"""VGG16 on CIFAR-10: the training job. `python -m job.main --help`."""
