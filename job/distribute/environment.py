"""Workers and required GPUs, from environment variables.

    cluster = from_environment(os.environ)
    cluster.workers, cluster.index       # ("a:2222", "b:2222"), 0

The workers come from TF_CONFIG or an Indexed Job. Each is a process with the
same command line. The module does not import TensorFlow, so that a wrong
variable ends the job immediately.
"""

import dataclasses
import functools
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from typing import NoReturn

from absl import logging

from job import errors
from job.storage import reader

# Contents of TF_CONFIG; see `reader.Kind`.
_TF_CONFIG = {"cluster": {"chief?": [str], "worker?": [str]}, "task": dict}

# Port in TensorFlow's examples.
PORT = 2222

# Time limit for the start of the other workers. Their nodes may have to start
# and to pull the image.
WAIT_SECONDS = 1800.0

# Interval between two probes of the workers, and the time limit of one.
_PROBE_SECONDS = 0.5
_ANSWER_SECONDS = 1.0

# First bytes of a waiting worker, and the chief's reply when all are waiting.
_WAITING = b"job: waiting\n"
_START = b"start\n"

_ADDRESS = re.compile(r"([-a-zA-Z0-9_.]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Workers of a run, including this process.

    Attributes:
      workers: Address host:port of each worker, in order. The first one is the
        chief, which alone writes the files of the run.
      index: Index of this worker.
      wait_seconds: Time limit for the start of the others, in seconds.
    """

    workers: tuple[str, ...]
    index: int
    wait_seconds: float = WAIT_SECONDS

    @property
    def is_chief(self) -> bool:
        """Returns whether this worker writes the files of the run."""
        return self.index == 0

    def others(self) -> dict[int, str]:
        """Returns the addresses of the other workers by index."""
        everyone = dict(enumerate(self.workers))
        del everyone[self.index]
        return everyone

    def names(self, indices: Iterable[int]) -> str:
        """Returns the names and addresses of workers for a message."""
        return ", ".join(f"worker {i} ({self.workers[i]})" for i in indices)

    def wait_for_others(self, poll: Callable[[], None]) -> None:
        """Waits until all workers are ready at the same time.

        TensorFlow itself would wait in native code for up to an hour, during
        which neither signal handlers nor the watchdog can run. The chief
        therefore first connects to each worker. When all have answered, it
        sends them the start signal. A TensorFlow server of an earlier attempt
        does not answer.

        Args:
          poll: Function called about once per second. An exception that it
            raises ends the wait.

        Raises:
          PeerLostError: Some workers, which the message names, did not start.
          DeviceError: This worker's port is in use or not permitted.
        """
        logging.info(
            "Starting worker %d of %d, waiting for %s",
            self.index,
            len(self.workers),
            self.names(self.others()) or "no others",
        )
        deadline = time.monotonic() + self.wait_seconds
        with self._listen() as server:
            while missing := self._missing(server):
                if time.monotonic() > deadline:
                    raise errors.PeerLostError(
                        f"{self.names(sorted(missing))} did not start within"
                        f" {self.wait_seconds:g} s. Fix: read the workers' logs"
                    )
                poll()

    def _missing(self, server: socket.socket) -> set[int]:
        """Waits up to a second and returns the workers that are not ready."""
        if not self.is_chief:
            return set() if _was_told_to_start(server) else {0}
        others = self.others()
        missing = self._silent(others, is_start=False)
        if not missing:
            missing = self._silent(others, is_start=True)
        if missing:
            time.sleep(_PROBE_SECONDS)
        return missing

    def _silent(self, others: Mapping[int, str], *, is_start: bool) -> set[int]:
        """Returns the workers that do not answer to parallel requests."""
        if not others:
            return set()
        with futures.ThreadPoolExecutor(len(others)) as pool:
            answers = pool.map(
                functools.partial(_answers, is_start=is_start), others.values()
            )
        return {i for i, ok in zip(others, answers, strict=True) if not ok}

    def unreachable(self, indices: Iterable[int]) -> set[int]:
        """Returns the workers that do not answer to parallel probes.

        Sequential probes of 32 hosts that drop packets would take 30 seconds.

        Args:
          indices: Indices of the workers to probe.
        """
        known = list(indices)
        with futures.ThreadPoolExecutor(len(known)) as pool:
            answers = pool.map(is_unreachable, (self.workers[i] for i in known))
        return {i for i, is_lost in zip(known, answers, strict=True) if is_lost}

    def _listen(self) -> socket.socket:
        port = int(self.workers[self.index].rpartition(":")[2])
        six = socket.has_dualstack_ipv6()
        try:
            return socket.create_server(
                ("", port),
                family=socket.AF_INET6 if six else socket.AF_INET,
                dualstack_ipv6=six,
            )
        except OSError as error:
            raise errors.DeviceError(
                f"worker {self.index} cannot listen on port {port}:"
                f" {error.strerror}. Fix: set JOB_WORKER_PORT to a free and"
                " permitted port"
            ) from None


def required_gpus(environment: Mapping[str, str]) -> int:
    """Returns the number of GPUs in JOB_REQUIRE_GPUS.

    GPU images set the variable. It is not a flag, because the arguments of a
    user replace those of the image.

    Args:
      environment: Environment variables by name.

    Raises:
      ConfigError: The variable is not a number.
    """
    given = environment.get("JOB_REQUIRE_GPUS", "")
    if given and not (given.isdecimal() and len(given) < 7):
        raise errors.ConfigError(
            f"JOB_REQUIRE_GPUS={given}: must be a number of GPUs. Fix: change"
            " the variable; 0 allows a CPU"
        )
    return int(given or 0)


def from_environment(environment: Mapping[str, str]) -> Cluster:
    """Returns the cluster that environment variables describe.

    If TF_CONFIG is set, as by Vertex AI or Kubeflow, it gives the addresses of
    the `chief`, if any, and of each `worker`. Otherwise these variables do:

        JOB_WORKERS              number of workers
        JOB_COMPLETION_INDEX     index of this worker, set by Kubernetes
        JOB_INDEX_OFFSET         offset of that index; 0 if not set
        JOB_WORKER_HOSTS         host names; see `host_names`
        JOB_WORKER_PORT          port of each worker; 2222 if not set

    JOB_WORKER_WAIT_SECONDS is the time limit for the start of the other workers
    in both cases, 1800 if not set.

    Args:
      environment: Environment variables by name.

    Raises:
      ConfigError: A variable, which the message names, is missing or wrong.
    """
    if environment.get("TF_CONFIG"):
        found = _from_tf_config(environment["TF_CONFIG"])
    else:
        found = _from_indexed_job(environment)
    for address in found.workers:
        match = _ADDRESS.fullmatch(address)
        if not match or not 0 < int(match[2]) < 65536:
            _refuse(f"{address!r} is not HOST:PORT")
    if len({*found.workers}) < len(found.workers):
        _refuse(f"two workers have one address in {', '.join(found.workers)}")
    wait = _number(environment, "JOB_WORKER_WAIT_SECONDS", int(WAIT_SECONDS))
    return dataclasses.replace(found, wait_seconds=float(wait))


def _from_indexed_job(environment: Mapping[str, str]) -> Cluster:
    if not environment.get("JOB_WORKERS"):
        _refuse("neither TF_CONFIG nor JOB_WORKERS is set")
    count = _number(environment, "JOB_WORKERS")
    if not environment.get("JOB_COMPLETION_INDEX"):
        if count > 1:
            _refuse(
                "JOB_COMPLETION_INDEX is not set",
                f"set it to the index of this worker, 0 to {count - 1}",
            )
        index = 0
    else:
        index = _number(environment, "JOB_COMPLETION_INDEX", least=0)
    index += _number(environment, "JOB_INDEX_OFFSET", 0, least=0)
    if index >= count:
        _refuse(
            f"JOB_COMPLETION_INDEX={index} with JOB_WORKERS={count} must be 0"
            f" to {count - 1}"
        )
    hosts = environment.get("JOB_WORKER_HOSTS", "")
    found = host_names(hosts or "localhost", count)
    if len(found) != count or (not hosts and count > 1):
        _refuse(
            f"JOB_WORKER_HOSTS={hosts} must name {count} hosts",
            "set it as in train-{index}.workers or a.lan,b.lan",
        )
    port = _number(environment, "JOB_WORKER_PORT", PORT)
    return Cluster(tuple(f"{host}:{port}" for host in found), index)


def host_names(text: str, count: int) -> list[str]:
    """Returns the host names of workers, in their order.

    Args:
      text: Host names, separated by commas. If the last one contains {index},
        it is the pattern of all remaining workers, with indices from 0.
      count: Number of workers.
    """
    *names, last = text.split(",")
    if "{index}" not in last:
        return [*names, last]
    rest = range(count - len(names))
    return [*names, *(last.replace("{index}", str(i)) for i in rest)]


def _from_tf_config(text: str) -> Cluster:
    try:
        parsed = reader.parse_json(text.encode(), _TF_CONFIG, "TF_CONFIG")
    except reader.DamagedError as error:
        _refuse(f"{error}")
    jobs, task = parsed["cluster"], parsed["task"]
    unknown = jobs.keys() - {"chief", "worker"}
    if unknown:
        _refuse(
            f"TF_CONFIG has {', '.join(sorted(unknown))} in its cluster, where"
            " only chief and worker are supported"
        )
    chiefs, workers = jobs.get("chief", []), jobs.get("worker", [])
    if len(chiefs) > 1 or not chiefs + workers:
        _refuse("TF_CONFIG's cluster must have workers and at most one chief")
    kind, index = task.get("type"), task.get("index")
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    there = {"chief": len(chiefs), "worker": len(workers)}.get(str(kind), 0)
    if type(index) is not int or not 0 <= index < there:
        _refuse(f"TF_CONFIG's task, {kind} {index}, is not in its cluster")
    ahead = len(chiefs) if kind == "worker" else 0
    return Cluster((*chiefs, *workers), ahead + index)


def _number(
    environment: Mapping[str, str],
    name: str,
    default: int | None = None,
    *,
    least: int = 1,
) -> int:
    text = environment.get(name) or str(default)
    if not re.fullmatch(r"\d{1,6}", text) or int(text) < least:
        _refuse(f"{name}={text} must be a number, {least} or above")
    return int(text)


def _refuse(problem: str, fix: str = "see docs/distributed.md") -> NoReturn:
    raise errors.ConfigError(
        f"--config.distribute.strategy=multi_worker: {problem}. Fix: {fix}"
    )


def _was_told_to_start(server: socket.socket) -> bool:
    """Returns whether the chief sent the start signal.

    Args:
      server: Listening socket of this worker.
    """
    server.settimeout(_ANSWER_SECONDS)
    try:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.sendall(_WAITING)
            return connection.recv(len(_START)) == _START
    except OSError:
        return False


def _answers(address: str, *, is_start: bool) -> bool:
    """Returns whether a worker waits at host:port, and starts it if asked."""
    try:
        with _connect(address) as connection:
            answer = connection.recv(len(_WAITING))
            if is_start:
                connection.sendall(_START)
            return answer == _WAITING
    except OSError:
        return False


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection(
        (host.strip("[]"), int(port)), _ANSWER_SECONDS
    )


def is_unreachable(address: str) -> bool:
    """Returns whether no process listens at host:port."""
    try:
        _connect(address).close()
    except OSError:
        return True
    return False
