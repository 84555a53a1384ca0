"""Trains the network on CIFAR-100, as an example of another data set.

    .venv/bin/python -m examples.cifar100 DIR runs/cifar100

DIR has the files of CIFAR-100's binary version (train.bin, test.bin and
fine_label_names.txt), which is at https://www.cs.toronto.edu/~kriz/cifar.html.
A data set is two arrays of images, their labels and the names of the classes.
Training works as it does for CIFAR-10, and so do export and predict after the
run. evaluate and diagnose load the images by name and need a data source; see
CONTRIBUTING.md. For other images, change `IMAGE_SIZE`, `PIXEL_MEAN` and
`PIXEL_STD` in job/data/dataset.py, and set `config.model.input_size`. The
accuracy of this recipe on CIFAR-100 has not been measured.
"""

import pathlib
import sys

import numpy as np

from configs import stem32
from job import errors, train
from job.config import ranges
from job.data.dataset import Dataset, Split
from job.output import progress
from job.storage.workdir import Workdir
from job.supervision import exits
from job.supervision.preemption import StopRequest

# A record: the coarse label, the fine label, then 1,024 bytes each of red,
# green and blue.
_RECORD_BYTES = 2 + 3 * 32**2


def load(folder: pathlib.Path) -> Dataset:
    """Reads CIFAR-100 with its 100 fine labels.

    Args:
      folder: Folder of train.bin, test.bin and fine_label_names.txt.

    Raises:
      OSError: A file cannot be read.
      ValueError: A file is not a whole number of records.
    """
    names = (folder / "fine_label_names.txt").read_text().split()
    return Dataset(
        train=_read(folder / "train.bin"),
        test=_read(folder / "test.bin"),
        source="cifar100",
        class_names=tuple(names),
    )


def _read(path: pathlib.Path) -> Split:
    records = np.fromfile(path, np.uint8).reshape(-1, _RECORD_BYTES)
    images = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), records[:, 1].astype(np.int32))


def main(folder: str, workdir: str) -> int:
    """Trains `configs/stem32.py:10ep` on CIFAR-100; returns the exit code."""
    progress.log_to_stderr()
    stop = StopRequest()
    stop.install()  # After Ctrl-C the run is saved and can be resumed.
    config = stem32.get_config("10ep")
    place = Workdir(pathlib.Path(workdir))
    try:
        with exits.translate_errors():
            ranges.check(config)
            try:
                data = load(pathlib.Path(folder))
            except (OSError, ValueError) as error:
                raise errors.DataError(
                    f"{folder}: CIFAR-100 cannot be read ({error}). Fix: choose"
                    " a folder with train.bin, test.bin and"
                    " fine_label_names.txt"
                ) from None
            result = train.train_and_evaluate(config, place, stop, data=data)
    except errors.JobError as error:
        return exits.report_error(error, stop)
    print(f"test accuracy {result['test_accuracy']:.2%}, report in {workdir}")
    return errors.EXIT_DONE


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
