"""Tests of the cluster from environment variables."""

import contextlib
import json
import socket
from concurrent import futures

import pytest

from job import errors
from job.distribute import environment as cluster

JOB = {
    "JOB_WORKERS": "3",
    "JOB_COMPLETION_INDEX": "1",
    "JOB_WORKER_HOSTS": "train-a-{index}.workers",
}


def tf_config(task_type="worker", index=0, **jobs):
    task = {"type": task_type, "index": index}
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": task})}


def test_an_indexed_job_is_a_cluster():
    found = cluster.from_environment(JOB)
    assert found.workers == tuple(
        f"train-a-{index}.workers:2222" for index in range(3)
    )
    assert found.index == 1
    assert not found.is_chief
    assert [*found.others()] == [0, 2]
    assert found.wait_seconds == cluster.WAIT_SECONDS


@pytest.mark.parametrize(
    ("index", "more", "wanted"),
    [("0", {}, 0), ("0", {"JOB_INDEX_OFFSET": "1"}, 1)],
)
def test_chief_may_have_a_separate_host_name(index, more, wanted):
    found = cluster.from_environment(
        {
            "JOB_WORKERS": "3",
            "JOB_COMPLETION_INDEX": index,
            "JOB_WORKER_HOSTS": "a-chief-0-0.workers,a-w-0-{index}.workers",
            **more,
        }
    )
    assert found.workers == (
        "a-chief-0-0.workers:2222",
        "a-w-0-0.workers:2222",
        "a-w-0-1.workers:2222",
    )
    assert found.index == wanted


def test_host_names_may_be_listed():
    hosts = {**JOB, "JOB_WORKER_HOSTS": "a.lan,b.lan,c.lan"}
    found = cluster.from_environment(hosts)
    assert found.workers == ("a.lan:2222", "b.lan:2222", "c.lan:2222")


def test_port_and_time_limit_can_be_set():
    more = {"JOB_WORKER_PORT": "4000", "JOB_WORKER_WAIT_SECONDS": "9"}
    found = cluster.from_environment({**JOB, **more})
    assert found.workers[2] == "train-a-2.workers:4000"
    assert found.wait_seconds == 9.0


@pytest.mark.parametrize("more", [{}, {"JOB_COMPLETION_INDEX": "0"}])
def test_single_worker_needs_only_the_number_of_workers(more):
    found = cluster.from_environment({"JOB_WORKERS": "1", **more})
    assert found.workers == ("localhost:2222",)
    assert found.is_chief


def test_tf_config_takes_precedence():
    environment = {**JOB, **tf_config(index=1, worker=["a:1", "b:2"])}
    found = cluster.from_environment(environment)
    assert found.workers == ("a:1", "b:2")
    assert found.index == 1


@pytest.mark.parametrize(
    ("kind", "index", "wanted"),
    [("chief", 0, 0), ("worker", 0, 1), ("worker", "1", 2)],
)
def test_a_chief_of_tf_config_is_the_first_worker(kind, index, wanted):
    found = cluster.from_environment(
        tf_config(kind, index, worker=["a:1", "b:2"], chief=["c:3"])
    )
    assert found.workers == ("c:3", "a:1", "b:2")
    assert found.index == wanted


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "neither TF_CONFIG nor JOB_WORKERS"),
        ({**JOB, "JOB_COMPLETION_INDEX": "3"}, "INDEX=3 .* 0 to 2"),
        ({**JOB, "JOB_COMPLETION_INDEX": "-1"}, "INDEX=-1 must"),
        ({**JOB, "JOB_COMPLETION_INDEX": ""}, "INDEX is not set"),
        ({**JOB, "JOB_WORKERS": "two"}, "WORKERS=two must"),
        ({**JOB, "JOB_WORKERS": "0"}, "WORKERS=0 must"),
        ({**JOB, "JOB_WORKER_HOSTS": "train"}, r"HOSTS=train .*\{index\}"),
        ({**JOB, "JOB_WORKER_HOSTS": "a,b"}, "HOSTS=a,b .*3 hosts"),
        ({**JOB, "JOB_INDEX_OFFSET": "2"}, "0 to 2"),
        ({**JOB, "JOB_WORKER_HOSTS": ""}, r"HOSTS= .*\{index\}"),
        ({**JOB, "JOB_WORKER_HOSTS": "a_{index}:1"}, "is not HOST:PORT"),
        ({**JOB, "JOB_WORKER_PORT": "70000"}, "is not HOST:PORT"),
        ({**JOB, "JOB_WORKER_PORT": "http"}, "PORT=http must"),
        ({**JOB, "JOB_WORKER_WAIT_SECONDS": "0"}, "WAIT_SECONDS=0"),
        ({"TF_CONFIG": "{"}, "not valid JSON"),
        ({"TF_CONFIG": "[]"}, "not an object"),
        ({"TF_CONFIG": "{}"}, "cluster is missing"),
        (tf_config(worker=[]), "must have workers"),
        (tf_config(worker="a:1"), "cluster.worker is 'a:1', not a list"),
        (tf_config(worker=["a:1"], ps=["b:1"]), "has ps in"),
        (tf_config(worker=["a:1"], chief=["b:1", "c:1"]), "one chief"),
        (tf_config("evaluator", worker=["a:1"]), "evaluator 0"),
        (tf_config(index=1, worker=["a:1"]), "worker 1"),
        (tf_config(index=True, worker=["a:1", "b:1"]), "worker True"),
        (tf_config(worker=["a"]), "'a' is not HOST:PORT"),
        (tf_config(worker=["a:1", "a:1"]), "two workers have one address"),
    ],
)
def test_wrong_variable_is_named(environment, said):
    with pytest.raises(errors.ConfigError, match=said) as caught:
        cluster.from_environment(environment)
    assert "\n" not in str(caught.value)


def workers_on_loopback(count, seconds=30.0):
    """Returns clusters of workers on free ports, one per worker."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    addresses = tuple(f"127.0.0.1:{port}" for port in ports)
    return [cluster.Cluster(addresses, i, seconds) for i in range(count)]


def wait(one):
    one.wait_for_others(lambda: None)


def test_workers_wait_until_all_are_ready():
    chief, *others = workers_on_loopback(4)
    with futures.ThreadPoolExecutor() as pool:
        waiting = [pool.submit(wait, one) for one in (chief, *others[:2])]
        done, _ = futures.wait(waiting, timeout=3.0)
        assert not done
        waiting.append(pool.submit(wait, others[2]))
        for one in waiting:
            one.result(timeout=30)


def test_a_server_of_an_earlier_attempt_is_not_a_worker():
    chief, other = workers_on_loopback(2, seconds=2.0)
    port = int(other.workers[1].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        assert not chief.unreachable([1])
        with pytest.raises(
            errors.PeerLostError, match=r"worker 1 .* not start"
        ):
            wait(chief)


def test_worker_names_the_chief_that_does_not_start():
    _, other = workers_on_loopback(2, seconds=1.0)
    with pytest.raises(errors.PeerLostError, match=r"worker 0 .* 1 s"):
        wait(other)


def test_single_worker_does_not_wait():
    wait(workers_on_loopback(1)[0])


def test_a_stop_ends_the_wait():
    def stop():
        raise errors.PreemptedError("stopped")

    for one in workers_on_loopback(2):
        with pytest.raises(errors.PreemptedError):
            one.wait_for_others(stop)
