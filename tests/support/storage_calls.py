"""Calls a function before and after each step of a storage.

Fault tests use it in place of fault points in the job: a process may die
between any two system calls and between any two requests.

    install(kill_at(7, signal.SIGKILL))     # in a process of its own
    HookedStorage(storage, hook)            # for one storage of a unit test
"""

import functools
import os
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

from google.auth.transport.requests import AuthorizedSession

Hook = Callable[[str], None]


def install(hook: Hook) -> None:
    """Hooks all system calls and requests that publish, move or delete.

    Args:
      hook: Function of a name such as `link.begin`, `fsync.end` or
        `POST.begin`, called for the rest of the process's life.
    """
    for name in ("fsync", "link", "rename", "unlink"):
        plain = getattr(os, name)
        setattr(os, name, _hooked(plain, hook, name))
    request = AuthorizedSession.request

    def hooked_request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        # The client library may ask for the bucket's location at any time.
        if "_fetch_background" in threading.current_thread().name:
            return request(self, method, *args, **kwargs)
        return _hooked(request, hook, method)(self, method, *args, **kwargs)

    AuthorizedSession.request = hooked_request


def _hooked(plain: Callable, hook: Hook, name: str) -> Callable:
    @functools.wraps(plain)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        hook(f"{name}.begin")
        result = plain(*args, **kwargs)
        hook(f"{name}.end")
        return result

    return hooked


def kill_at(
    index: int, number: signal.Signals, *, name: str = "", thread: str = ""
) -> Hook:
    """Returns a hook that sends this process a signal.

    Args:
      index: Number of the call that triggers the signal, from 0.
      number: Signal.
      name: Name of the calls that count. If "", all.
      thread: Name of the thread whose calls count. If "", all.
    """
    left = index
    lock = threading.Lock()

    def count(called: str) -> None:
        nonlocal left
        if thread and threading.current_thread().name != thread:
            return
        if name and called != name:
            return
        with lock:
            left -= 1
            if left == -1:
                os.kill(os.getpid(), number)

    return count


def parse(fault: str, *, thread: str = "") -> Hook:
    """Returns the hook of a fault such as `link.begin:3=SIGKILL`.

    Args:
      fault: NAME:INDEX=SIGNAL; see `kill_at`.
      thread: See `kill_at`.
    """
    name, index, number = re.fullmatch(
        r"(\w+\.\w+):(\d+)=(\w+)", fault
    ).groups()
    return kill_at(int(index), signal.Signals[number], name=name, thread=thread)


class HookedStorage:
    """A storage that calls a hook before and after each of its methods.

    The hook's argument is a name such as `publish.begin` or `delete.end`.
    """

    def __init__(self, storage: Any, hook: Hook) -> None:
        self._storage = storage
        self.hook = hook

    def __str__(self) -> str:
        return str(self._storage)

    def __getattr__(self, name: str) -> Any:
        return _hooked(
            getattr(self._storage, name), lambda point: self.hook(point), name
        )
