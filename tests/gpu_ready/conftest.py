"""TensorFlow as in a run, with two CPU devices and no GPU."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

if os.environ.get("GPU_READY"):
    from job.supervision import startup

    startup.import_tensorflow()
else:
    # They need TensorFlow's CUDA build and are run by make test-gpu-ready.
    collect_ignore = ["test_gpu_ready.py"]
