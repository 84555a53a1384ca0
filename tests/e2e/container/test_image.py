"""Tests of the built CPU image, hardened as on a cluster.

    make test-container

`tests/e2e/container/run` builds the image from a checkout with umask 027 and
starts these tests in a network namespace that has only loopback.
"""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import time

import pytest
import yaml

from tests.support import manifests

USER = 10001

IMAGE = os.environ.get("IMAGE", "")
pytestmark = pytest.mark.skipif(
    not IMAGE, reason="no image: make test-container builds one"
)

# The limits are for machines where podman cannot raise its own. "host" is the
# namespace of `tests/e2e/container/run`, with loopback only.
HARDENED = (
    *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096"),
    *("--network", "host", "--read-only", "--read-only-tmpfs=false"),
    *("--cap-drop=all", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp:size=256m,mode=1777"),
)
SMOKE = ("--config=configs/smoke.py", "--workdir=/storage/runs/a")
# Long enough to be stopped in the middle.
LONG = (*SMOKE, "--config.steps=4000", "--config.log_every_steps=1")


def podman(*args: str, **kwargs) -> subprocess.CompletedProcess:
    kwargs = {"check": False, "timeout": 200, **kwargs}
    return subprocess.run(
        ["podman", "--runtime", "crun", *args],
        capture_output=True,
        text=True,
        **kwargs,
    )


def run(storage: pathlib.Path, *args: str, options: tuple[str, ...] = ()):
    return podman(
        *("run", "--rm", "--cgroups=disabled", *HARDENED, *options),
        *("--volume", f"{storage}:/storage", IMAGE, *args),
    )


@pytest.fixture
def storage(tmp_path) -> pathlib.Path:
    """A volume that belongs to the image's user."""
    path = tmp_path / "storage"
    for folder in (path, path / "runs"):
        folder.mkdir()
        os.chown(folder, USER, 0)
    return path


@pytest.fixture
def started(storage, request):
    """Runs the image in the background and yields the container's name."""
    name = f"vgg16-test-{os.getpid()}-{request.node.name[:20]}"
    ended = podman(
        *("run", "--detach", "--name", name, "--cgroups=disabled", *HARDENED),
        *("--volume", f"{storage}:/storage", IMAGE, *LONG),
    )
    assert ended.returncode == 0, ended.stderr
    yield name
    podman("rm", "--force", "--time", "0", name)


def wait_for(condition, what: str, seconds: float = 150.0):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"no {what} within {seconds:g} s"
        time.sleep(0.2)
    return value


def steps(storage: pathlib.Path) -> list[int]:
    """Returns the logged training steps of run a."""
    path = storage / "runs/a/metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return [e["step"] for e in entries if e["split"] == "train"]


def test_the_quickstart_runs_hardened_and_without_a_network(storage):
    # This is the image's own command with fewer steps.
    ended = run(
        storage,
        "--config=configs/quickstart.py",
        "--workdir=/storage/runs/quickstart",
        "--config.steps=60",
        "--config.evaluate.every_epochs=0",
        "--config.evaluate.tta=false",
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]
    result = json.loads((storage / "runs/quickstart/result.json").read_text())
    assert result["train_steps"] == 60
    assert (storage / "runs/quickstart/result.json").stat().st_uid == USER
    assert (storage / "runs/quickstart/report.html").stat().st_uid == USER


def test_the_command_by_itself_is_the_quickstart():
    info = json.loads(podman("image", "inspect", IMAGE).stdout)[0]["Config"]
    assert info["Cmd"] == [
        "--config=configs/quickstart.py",
        "--workdir=/storage/runs/quickstart",
    ]
    assert info["Entrypoint"] == ["python", "-m", "job.main"]
    assert info["User"] == f"{USER}:0"
    labels = {
        name.removeprefix("org.opencontainers.image."): value
        for name, value in info["Labels"].items()
    }
    assert labels["licenses"] == "Apache-2.0"
    assert labels["base.name"]
    assert {"title", "version", "revision", "created", "source"} <= {*labels}


def test_its_user_can_do_nothing_but_write_where_it_should(storage):
    script = """
import errno, json, os
def writes(path):
    try:
        open(path, "w").close()
        return True
    except OSError as error:
        return errno.errorcode[error.errno]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getuid(),
    "capabilities": int(status["CapEff"], 16),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "seccomp": int(status["Seccomp"]),
    "root": writes("/x"), "app": writes("/app/job/x"),
    "tmp": writes("/tmp/x"), "storage": writes("/storage/runs/x"),
    "compilers": [c for c in ("gcc", "cc", "make", "clang") if any(
        os.path.exists(f"{d}/{c}") for d in os.environ["PATH"].split(":"))],
}))
"""
    ended = podman(
        *("run", "--rm", "--cgroups=disabled", *HARDENED),
        *("--volume", f"{storage}:/storage", "--entrypoint", "python", IMAGE),
        *("-c", script),
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {
        "uid": USER,
        "capabilities": 0,
        "no_new_privileges": 1,
        "seccomp": 2,
        "root": "EROFS",
        "app": "EROFS",
        "tmp": True,
        "storage": True,
        "compilers": [],
    }


def test_a_wrong_flag_is_told_from_within_the_image(storage):
    ended = run(storage, *SMOKE, "--config.optimizer.momemtum=0.8")
    assert ended.returncode == 2, ended.stderr
    assert "momentum" in ended.stderr


def test_an_image_for_gpus_without_any_ends_with_69(storage):
    ended = run(storage, *SMOKE, options=("--env", "JOB_REQUIRE_GPUS=1"))
    assert ended.returncode == 69, ended.stderr
    assert "require_gpus=1" in ended.stderr
    assert not steps(storage)


def test_sigterm_saves_and_the_same_command_goes_on(started, storage):
    wait_for(lambda: max(steps(storage), default=0) >= 3, "third step")
    # Like `docker stop`, this sends SIGTERM and waits for a grace period.
    podman("stop", "--time", "30", started)
    code = podman("inspect", "--format", "{{.State.ExitCode}}", started)
    logs = podman("logs", started)
    assert code.stdout.strip() == "75", (logs.stdout + logs.stderr)[-2000:]
    assert "preempted" in (logs.stdout + logs.stderr).splitlines()[-1]

    reached = max(steps(storage))
    saved = max(
        int(re.match(r"step-(\d+)", path.name)[1])
        for path in (storage / "runs/a/checkpoints").glob("step-*")
    )
    assert saved >= reached >= 3
    goal = saved + 10
    ended = run(storage, *LONG, f"--config.steps={goal}")
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]
    result = json.loads((storage / "runs/a/result.json").read_text())
    assert (result["train_steps"], result["resumes"]) == (goal, 1)
    assert steps(storage) == list(range(1, goal + 1)), "each step once"


@pytest.mark.parametrize("group", [0, 10001])
def test_any_user_may_run_it(tmp_path, group):
    # OpenShift uses group 0. A pod with runAsGroup or fsGroup uses another one.
    storage = tmp_path / "storage"
    storage.mkdir()
    os.chown(storage, 0, group)
    storage.chmod(0o2770)
    ended = run(storage, *SMOKE, options=("--user", f"12345:{group}"))
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]
    status = (storage / "runs/a/result.json").stat()
    assert (status.st_uid, status.st_gid) == (12345, group)


@pytest.fixture
def control_groups():
    """Skips the test if podman may not create cgroups. Removes leftovers."""
    if not os.access("/sys/fs/cgroup/memory", os.W_OK):
        pytest.skip("no control groups of version 1 that podman may use")
    yield
    for top in pathlib.Path("/sys/fs/cgroup").glob("*/libpod_parent"):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def test_too_little_memory_kills_it_and_loses_nothing(
    storage, tmp_path, control_groups
):
    # podman leaves a file in its working directory.
    ended = podman(
        *("run", "--rm", *HARDENED, "--volume", f"{storage}:/storage"),
        *("--memory", "200m", "--memory-swap", "200m", IMAGE, *SMOKE),
        cwd=tmp_path,
    )
    assert ended.returncode == 137, (ended.stdout + ended.stderr)[-2000:]
    ended = run(storage, *SMOKE)
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-2000:]
    result = json.loads((storage / "runs/a/result.json").read_text())
    assert result["train_steps"] == 20


def test_the_jobs_own_pod_template_runs(tmp_path, control_groups):
    documents = manifests.render("local")
    pod, flags = pod_of(documents)
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(yaml.safe_dump_all([flags, pod]))
    config = tmp_path / "containers.conf"
    config.write_text(
        '[containers]\ndefault_ulimits = ["nofile=4096:4096",'
        ' "nproc=4096:4096"]\n'
    )
    name = f"{pod['metadata']['name']}-train"
    environment = {**os.environ, "CONTAINERS_CONF": str(config)}
    try:
        played = podman(
            *("play", "kube", "--network", "none", str(manifest)),
            env=environment,
            cwd=tmp_path,
        )
        assert played.returncode == 0, played.stderr
        ended = podman("wait", name, env=environment)
        logs = podman("logs", name, env=environment)
        assert ended.stdout.strip() == "0", (logs.stdout + logs.stderr)[-2000:]
        assert "/storage/runs/train-local/result.json" in logs.stdout
    finally:
        podman(
            *("play", "kube", "--down", str(manifest)),
            env=environment,
            cwd=tmp_path,
        )


def pod_of(documents: list[dict]) -> tuple[dict, dict]:
    """Returns the pod that the Job would start, and its ConfigMap."""
    [job] = manifests.jobs(documents)
    spec = manifests.pod(job)
    [container] = manifests.containers(job)
    container["image"] = IMAGE
    # podman 4.3 knows neither fieldRef nor $(RUN), nor probes like this one.
    container.pop("env")
    container.pop("livenessProbe")
    spec.pop("serviceAccountName")
    container["args"] = [
        *(a.replace("$(RUN)", job["name"]) for a in container["args"]),
        *("--config.steps=20", "--config.evaluate.tta=false"),
    ]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"vgg16-test-{os.getpid()}"},
        "spec": spec,
    }
    return pod, manifests.find(documents, "ConfigMap")
