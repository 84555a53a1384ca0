"""Workdir of a finished run, written without training."""

import html.parser
import json
import pathlib

import numpy as np
from PIL import Image

from configs import smoke
from job.checkpoint import store
from job.config import serialization
from job.data import dataset
from job.output import predictions
from job.storage import files
from job.storage.workdir import PREDICTIONS

# A field of the run's config that would be a script if it were not escaped.
NASTY = '"><script>alert(1)</script>'

# Names that are markup, mathematics or control codes somewhere: HTML, Markdown,
# matplotlib, a terminal, a CSV.
HOSTILE = (
    NASTY,
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac$ a_{b",
    "_hidden_",
    "a|b",
    "two\nlines\r\n",
    "\x1b[31mred\x1b[0m\x00",
    "not UTF-8: \udcff",
    "\u202eright to left",
    "`code` ``x`` *bold* [link](javascript:alert(1)) # ~~",
    'quotes "and, commas',
    "long " * 60,
)


def make_predictions(count=200):
    """Returns predictions and their split. 25% are wrong, at 0.9 confidence."""
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int32) % 10
    said = np.where(np.arange(count) % 4 == 0, (labels + 1) % 10, labels)
    logits = np.full((count, 10), np.log(0.1 / 9), np.float32)
    logits[np.arange(count), said] = np.log(0.9)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    split = dataset.Split(images, labels)
    return predictions.predict(logits, split, dataset.CLASS_NAMES), split


def write_run(folder: pathlib.Path) -> None:
    """Writes the files of a finished run with two attempts."""
    folder.mkdir(exist_ok=True)
    config = smoke.get_config().unlock()
    config.data.dir = NASTY
    config.optimizer.momentum = 0.5
    files.write_json(folder / "config.json", serialization.to_json(config))
    lines = []
    for step in range(5, 25, 5):
        line = {"step": step, "epoch": step / 10, "loss": 2.0 - step / 20}
        rate = {"learning_rate": 0.1, "images_per_second": 1000.0 + step}
        lines.append(line | rate | {"split": "train", "accuracy": 0.1})
    test = {"split": "test", "learning_rate": None, "accuracy": 0.75}
    lines.append({**lines[-1], **test})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    result = {
        "test_accuracy": 0.75,
        "test_accuracy_tta": 0.8125,
        "test_loss": 0.5,
        "images_scored": 200,
        "train_steps": 20,
        "train_seconds": 60.0,
        "images_per_second": 1000.0,
        "params": 1234,
        "replicas": 1,
        "precision": "float32",
        "global_batch_size": 64,
        "resumes": 1,
        "rollbacks": 0,
        "data_source": "synthetic",
        "ended": "2026-01-01T00:03:00+00:00",
    }
    files.write_json(folder / "result.json", result)
    make_predictions()[0].save(folder / PREDICTIONS)
    Image.new("RGB", (80, 80)).save(folder / "augmentation.png")
    starts = [
        {
            "step": step,
            "time": f"2026-01-01T00:0{minute}:00+00:00",
            "replicas": 1,
            "host": "node-a",
            "versions": {"tensorflow": "2.21.0"},
        }
        for step, minute in ((0, 0), (10, 1))
    ]
    store.CheckpointStore(folder / "checkpoints").save(
        20,
        {"step": np.zeros(1, np.float32)},
        {"starts": starts, "rollbacks": [], "train_seconds": 60.0},
    )


class Reader(html.parser.HTMLParser):
    """Parser that collects a page's text, tags and links."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.links = [], [], []
        self.feed(text.replace("<wbr>", ""))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        names = ("src", "href", "xlink:href", "data", "srcset")
        self.links += [v for k, v in attributes if k in names]

    def handle_data(self, data):
        self.words.append(data)
