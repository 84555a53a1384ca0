"""Records docs/terminal.svg: the first two commands of README.md, really run.

    python -m venv .venv-record
    .venv-record/bin/pip install termtosvg==1.1.0
    python -m docs.record .venv-record/bin/termtosvg

`data` holds CIFAR-10 (`make fetch DATA=data`), and runs/quickstart is absent.
The output is not edited. Only the pauses are shortened, and a burst of lines
appears line by line, so that it can be read.
"""

import errno
import fcntl
import json
import os
import pathlib
import pty
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
# Seconds of the recording: the longest pause, the pause after a command, and
# the pause between two lines.
_PAUSE, _END, _LINE = 0.2, 3.0, 0.1


def run(command: str) -> list[tuple[float, str]]:
    """Runs a command in a terminal of its own.

    Args:
      command: Line of a shell.

    Returns:
      Seconds since the start and text of each piece of output.
    """
    process, terminal = pty.fork()
    if not process:
        os.execvp("bash", ["bash", "-c", command])
    size = struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    start, pieces = time.monotonic(), []
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            break
        if not data:
            break
        pieces.append((time.monotonic() - start, data))
    os.waitpid(process, 0)
    return [(at, data.decode(errors="replace")) for at, data in pieces]


def shortened(
    command: str, pieces: list[tuple[float, str]], now: float
) -> list[tuple[float, str]]:
    """Returns the typed command and its output, with short pauses.

    Args:
      command: Line of a shell.
      pieces: Result of `run`.
      now: Seconds of the recording before the command.
    """
    events = [(now, "\x1b[2J\x1b[H$ ")]
    for number, letter in enumerate(command):
        events.append((now + 0.5 + 0.03 * number, letter))
    now, last = events[-1][0] + 0.5, 0.0
    events.append((now, "\r\n"))
    for at, text in pieces:
        now, last = now + min(at - last, _PAUSE), at
        for line in text.splitlines(keepends=True):
            events.append((now, line))
            now += _LINE if line.endswith("\n") else 0.0
    # An event that changes nothing ends the recording.
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
        subprocess.run(
            [termtosvg, "render", cast.name, output, "-t", "window_frame"]
            + ["-m", "50", "-D", "3000"],
            check=True,
        )
    print(f"{output.stat().st_size:,} bytes, {events[-1][0]:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1])
