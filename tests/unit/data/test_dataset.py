"""Arrays that a data set accepts or refuses."""

import numpy as np
import pytest

from job import errors
from job.data.dataset import Dataset, Split

NAMES = ("a", "b", "c", "d", "e")


def make_split(
    dtype=np.uint8, shape=(10, 32, 32, 3), label_dtype=np.int32, first_label=0
):
    labels = np.arange(10, dtype=label_dtype) % len(NAMES) + first_label
    return Split(np.zeros(shape, dtype), labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_label": 1}, "labels must be 0 to 4: found 1 to 5"),
        ({"first_label": -1}, "labels must be 0 to 4: found -1 to 3"),
        (
            {"label_dtype": np.int64},
            r"labels must be int32 \[10\]: found int64",
        ),
        (
            {"dtype": np.float32},
            r"images must be uint8 \[10, 32, 32, 3\]: found float32",
        ),
        ({"shape": (10, 3, 32, 32)}, r"found uint8 \[10, 3, 32, 32\]"),
        ({"shape": (9, 32, 32, 3)}, r"found uint8 \[9, 32, 32, 3\]"),
    ],
)
@pytest.mark.parametrize("is_training", [True, False])
def test_wrong_arrays_are_refused(changes, message, is_training):
    splits = [make_split(**changes), make_split()]
    train, test = splits if is_training else reversed(splits)
    name = "training" if is_training else "test"
    with pytest.raises(errors.DataError, match=f"mine: the {name} .*{message}"):
        Dataset(train, test, "mine", NAMES)


def test_an_empty_split_is_refused():
    empty = make_split().take(np.arange(0))
    with pytest.raises(errors.DataError, match=r"found int32 \[0\]"):
        Dataset(make_split(), empty, "mine", NAMES)
