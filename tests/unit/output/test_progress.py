"""Tests of the progress display on a terminal and in a log."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

from job.output.metrics import MetricsLog
from job.output.progress import Progress, format_duration, log_to_stderr
from job.output.reporter import Reporter
from tests.support.jobs import ROOT

_SHOW = """
from absl import logging
from job.output.progress import Progress, log_to_stderr
log_to_stderr()
progress = Progress(100, first_step=0)
progress.update(40, "loss 1.250  1,234 images/s  ETA 43 s")
progress.line("step 40/100  test loss 1.500")
logging.warning("slow disk")
progress.close()
print(progress.has_bar)
"""


def test_a_log_gets_lines_only():
    done = subprocess.run(
        [sys.executable, "-c", _SHOW],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d  step 40/100  test loss 1\.500\n"
        r"\d\d:\d\d:\d\d  warning: slow disk\n",
        done.stderr,
    )


def test_terminal_gets_a_bar_with_the_remaining_time():
    ours, theirs = pty.openpty()
    size = struct.pack("HHHH", 24, 80, 0, 0)
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
    process = subprocess.Popen(
        [sys.executable, "-c", _SHOW], cwd=ROOT, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 4096):
            output += part
    except OSError:  # The terminal is closed.
        pass
    finally:
        os.close(ours)
    assert process.wait() == 0
    text = output.decode()
    for part in (" 40% |", "40/100  loss 1.250  1,234 images/s  ETA 43 s"):
        assert part in text, text
    # The bar is cleared before a line.
    assert re.search(r"[\r\n]\d\d:\d\d:\d\d  step 40/100  test loss", text)
    assert re.search(r"[\r\n]\d\d:\d\d:\d\d  warning: slow disk", text)


def test_a_run_reports_its_remaining_time_once_it_is_measured(tmp_path, caplog):
    log_to_stderr()
    # The first 20 of 100 steps cost half as much as the others.
    reporter = Reporter(
        MetricsLog(tmp_path, first_step=0),
        Progress(100, first_step=0),
        train_steps=100,
        global_batch_size=10,
        epoch=lambda step: step / 50,
        tflop=lambda step: 0.5 * min(step, 20) + max(0, step - 20),
    )
    # The throughput of the first call includes the compilation.
    for step, rate in ((1, 0.5), (2, 20.0), (4, 20.0)):
        reporter.show(step, loss=2.0, accuracy=0.1, images_per_second=rate)
    reporter.write(
        30,
        "train",
        loss=2.3141,
        accuracy=0.0934,
        learning_rate=0.02,
        images_per_second=2216.0,
    )
    reporter.write(50, "test", loss=1.5, accuracy=0.5851, images_per_second=9e3)
    reporter.close()
    assert caplog.messages == [
        "Estimated time left: 89 s for 98 steps at 20 images/s",
        "step 30/100  epoch 0.60  train loss 2.314  accuracy 9.3%  lr 0.020"
        "  2,216 images/s  ETA 0 s",
        "step 50/100  epoch 1.00  test loss 1.500  accuracy 58.51%",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (99.0, "99 s"),
        (100.0, "2 min"),
        (5900.0, "98 min"),
        (7009.0, "1 h 57 min"),
        (360_000.0, "100 h 00 min"),
    ],
)
def test_a_duration_has_a_fitting_unit(seconds, text):
    assert format_duration(seconds) == text
