"""Records docs/terminal.svg: two commands of README.md, really run.

    python -m venv .venv-record
    .venv-record/bin/pip install termtosvg==1.1.0
    python -m docs.record .venv-record/bin/termtosvg

`data` holds CIFAR-10 (`make fetch DATA=data`), and runs/quickstart is absent.
The pauses are shortened, lines that come at once appear one by one, and the
lines of TensorFlow's own log are left out. Nothing else is edited.
"""

import fcntl
import json
import os
import pathlib
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time

_COMMANDS = (
    "make train",
    "make diagnose CONFIG=configs/naive.py DATA=data",
)
_COLUMNS, _ROWS = 96, 30
# Seconds of the recording: the longest pause, the pause after a line, and the
# pause after the last one.
_PAUSE, _LINE, _END = 0.035, 0.12, 2.5
_TENSORFLOW = re.compile(r"(WARNING: All log|[IWE]0000 )[^\n]*\n")


def run(command: str) -> list[tuple[float, str]]:
    """Runs a command in a terminal of its own.

    Args:
      command: Line of a shell.

    Returns:
      Seconds since the start and text of each piece of output, whole lines or
      what ends in a carriage return.
    """
    process, terminal = pty.fork()
    if not process:
        os.execvp("bash", ["bash", "-c", command])
    size = struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    start, pieces, rest = time.monotonic(), [], b""
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # The end, on Linux.
            break
        *ended, rest = re.split(rb"(?<=[\r\n])(?!\n)", rest + data)
        at = time.monotonic() - start
        pieces += [(at, line.decode(errors="replace")) for line in ended]
    os.waitpid(process, 0)
    return pieces


def shortened(
    command: str, pieces: list[tuple[float, str]], now: float
) -> list[tuple[float, str]]:
    """Returns the typed command and its output, with short pauses.

    Args:
      command: Line of a shell.
      pieces: Result of `run`.
      now: Seconds of the recording before the command.
    """
    events = [(now, "\x1b[?25l\x1b[2J\x1b[H$ ")]
    for number, letter in enumerate(command):
        events.append((now + 0.5 + 0.03 * number, letter))
    now, last = events[-1][0] + 0.5, 0.0
    events.append((now, "\r\n"))
    for at, text in pieces:
        if not _TENSORFLOW.match(text):
            now += min(at - last, _PAUSE)
            events.append((now, text))
            now += _LINE if text.endswith("\n") else 0.0
        last = at
    # An event that changes nothing is the end.
    return [*events, (now + _END, "\x1b[0m")]


def main(termtosvg: str) -> None:
    """Runs the commands and renders docs/terminal.svg.

    Args:
      termtosvg: Path of the program termtosvg.
    """
    events: list[tuple[float, str]] = []
    for command in _COMMANDS:
        now = events[-1][0] if events else 0.0
        events += shortened(command, run(command), now)
    header = {"version": 2, "width": _COLUMNS, "height": _ROWS}
    lines = [header, *([at, "o", text] for at, text in events)]
    with tempfile.NamedTemporaryFile("w", suffix=".cast") as cast:
        cast.write("\n".join(map(json.dumps, lines)) + "\n")
        cast.flush()
        output = pathlib.Path(__file__).with_name("terminal.svg")
        looks = ("-t", "window_frame", "-m", "40", "-D", "1000")
        subprocess.run(
            [termtosvg, "render", cast.name, str(output), *looks], check=True
        )
    print(f"{output.stat().st_size:,} bytes, {events[-1][0]:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1])
