"""Tests of the commands in the pages on deployment and of those in k8s/test.

No command reaches a cluster. The tests render runs, parse flags and look up
names.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import yaml

from tests.support import manifests
from tests.support.jobs import ROOT

PAGES = ("deployment.md", "distributed.md")
# Programs whose options only their own parser knows.
OTHERS = {"aws", "curl", "eksctl", "gcloud", "kind", "minikube"}


def blocks() -> list[str]:
    """Returns the fenced blocks of both pages."""
    return [
        block
        for page in PAGES
        for block in re.findall(
            r"^```(?:bash|yaml)\n(.*?)^```$",
            (ROOT / "docs" / page).read_text(),
            re.M | re.S,
        )
    ]


def commands() -> list[list[str]]:
    """Returns the words of each command of both pages, in their order."""
    return [
        words
        for block in blocks()
        if "kustomization.yaml\n" not in block.partition("apiVersion")[0]
        for line in block.replace("\\\n", " ").splitlines()
        for words in [shlex.split(line)]
    ]


def job_flags(words: list[str]) -> list[str] | None:
    """Returns the job's arguments in a command, or None if it has none."""
    if "job.main" in words:
        return words[words.index("job.main") + 1 :]
    if words[:2] == ["docker", "run"]:
        image = next(i for i, w in enumerate(words) if w.startswith("vgg16-c"))
        return words[image + 1 :] or None
    return None


@pytest.fixture
def project(tmp_path):
    """Returns a copy of the project's manifests, where tests can write runs."""
    return manifests.copy_project(tmp_path)


def write_run(project: pathlib.Path, words: list[str]) -> pathlib.Path:
    """Renders a run as `make k8s-run` does, and returns its folder."""
    folder = project / "k8s/runs/docs"
    shutil.rmtree(folder, ignore_errors=True)
    ended = subprocess.run(
        [
            *("make", "--silent", "k8s-render", *words, "NAME=docs"),
            f"KUBECTL={manifests.KUBECTL}",
        ],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return folder


def test_flags_are_accepted():
    lines = [flags for words in commands() if (flags := job_flags(words))]
    assert len(lines) >= 5
    said = manifests.refused(lines)
    assert said == [""] * len(lines)


def test_runs_have_no_problems(project):
    made = [w for w in commands() if w[:2] == ["make", "k8s-run"]]
    # Some commands differ only in the registry or the name.
    distinct = {
        tuple(w for w in words[2:] if not w.startswith(("IMAGE=", "NAME=")))
        for words in made
    }
    assert len(distinct) > 6
    lines = []
    for words in distinct:
        tag = "cpu" if "OVERLAY=pvc" in words else "gpu"
        folder = write_run(
            project, [*words, f"IMAGE=registry/vgg16-cifar10:0.1.0-{tag}"]
        )
        documents = manifests.with_setup(manifests.load(folder))
        found = manifests.problems(documents)
        if "COMPONENTS=openshift" in words:
            assert {*found} == {"no fsGroup: a new volume belongs to root"}
            assert "fsGroup" not in str(documents)
        else:
            assert found == [], words
        lines += manifests.command_lines(documents)
    assert manifests.refused(lines) == [""] * len(lines)


@pytest.mark.parametrize("number", [0, 1])
def test_kustomizations_work_as_shown(project, number):
    shown = [b for b in blocks() if "../../overlays/" in b]
    assert len(shown) == 2
    run_folder = project / "k8s/runs/docs"
    run_folder.mkdir(parents=True)
    (run_folder / "kustomization.yaml").write_text(shown[number])
    (run_folder / "run.flags").write_text(
        "--config=configs/stem32.py:20ep\n--config.data.dir=/storage/data\n"
    )
    documents = manifests.with_setup(manifests.load(run_folder))
    assert manifests.problems(documents) == []
    names = {d["metadata"]["name"] for d in documents}
    assert names & {"train-gpu-a", "train-multi-node-a"}


def test_the_volume_of_another_class_is_the_claim_of_the_setup(project):
    [shown] = [b for b in blocks() if "../setup/volume" in b]
    folder = project / "k8s/volume-efs"
    folder.mkdir(parents=True)
    (folder / "kustomization.yaml").write_text(shown)
    [claim] = manifests.load(folder)
    [setup] = manifests.load(ROOT / "k8s/setup/volume-shared")
    assert claim["spec"].pop("storageClassName")
    assert claim == setup


def test_other_commands_name_what_exists():
    targets = set(
        re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    )
    targets = {name for line in targets for name in line.split()}
    namespace = "vgg16-cifar10"
    namespaces = {namespace, "kueue-system"}
    for words in commands():
        program = words[0]
        if program == "make":
            assert words[1] in targets, words
        elif program in ("kubectl", "oc"):
            if "-k" in words:
                assert manifests.load(ROOT / words[words.index("-k") + 1])
            elif words[1] == "kustomize":
                assert manifests.load(ROOT / words[2])
            elif words[1] not in ("annotate", "apply", "cp"):
                assert words[words.index("-n") + 1] in namespaces, words
            for word in words:
                name = re.fullmatch(r"job/train-(.*)-(a|ladder)", word)
                assert not name or (ROOT / "k8s/overlays" / name[1]).is_dir()
        elif program == "k8s/logs":
            assert (ROOT / words[1] / "kustomization.yaml").is_file()
        else:
            known = {"docker", "mkdir", *OTHERS}
            assert program in known or "job.main" in words, words
    text = (ROOT / "docs/deployment.md").read_text()
    assert f"/subject/ns/{namespace}/sa/{namespace}\n" in text
    account = manifests.find(manifests.render("gke"), "ServiceAccount")
    assert account["metadata"]["name"] == namespace


def test_the_table_of_overlays_is_complete():
    text = (ROOT / "docs/deployment.md").read_text()
    table = text[text.index("| overlay |") : text.index("The overlays name")]
    first = "".join(line.split("|")[1] for line in table.splitlines() if line)
    assert set(re.findall(r"`([\w-]+)`", first)) == {
        path.name for path in (ROOT / "k8s/overlays").iterdir()
    }


def test_drivers_agree_with_the_image():
    dockerfile = (ROOT / "Dockerfile").read_text()
    text = (ROOT / "docs/deployment.md").read_text()
    assert 'NVIDIA_REQUIRE_CUDA="cuda>=12.5 arch<9.0,cuda>=12.0"' in dockerfile
    assert "| below 9.0 | R525 (CUDA 12.0) or newer |" in text
    assert "| 9.0 | R555 (CUDA 12.5) or newer |" in text


# Scripts that need a cluster.

SCRIPTS = sorted(
    path
    for path in (ROOT / "k8s/test").iterdir()
    if "start " in path.read_text() and path.name != "common.sh"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_starts_a_valid_run(script, project):
    common = (ROOT / "k8s/test/common.sh").read_text()
    long = re.search(r'^LONG="(.*)"', common, re.M)[1]
    text = script.read_text().replace("\\\n", " ").replace("$LONG", long)
    line = re.search(r"^start (.*)$", text, re.M)[1]
    folder = write_run(
        project, [*shlex.split(line), "IMAGE=vgg16-cifar10:0.1.0-cpu"]
    )
    documents = manifests.with_setup(manifests.load(folder))
    assert manifests.problems(documents) == []
    said = manifests.refused(manifests.command_lines(documents))
    assert any(said) == (script.name == "wrong-flag"), said


@pytest.mark.parametrize(
    "script",
    [
        *(ROOT / "k8s/test").iterdir(),
        *(ROOT / "k8s/logs", ROOT / "k8s/fetch", ROOT / "requirements/install"),
    ],
    ids=lambda path: path.name,
)
def test_a_script_parses(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) or script.suffix == ".sh"


def test_workflows_run_scripts_and_targets_that_exist():
    makefile = (ROOT / "Makefile").read_text()
    for path in (ROOT / ".github/workflows").iterdir():
        workflow = yaml.safe_load(path.read_text())
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                words = step.get("run", "").split()
                if words[:1] == ["make"]:
                    assert f"\n{words[1]}:" in makefile, words
                elif words and words[0].startswith("k8s/"):
                    assert os.access(ROOT / words[0], os.X_OK), words


# Logs of a run, with a fake kubectl in place of a cluster.

FAKE = r"""#!/bin/bash
state=$(dirname "$0")
calls=$(cat "$state/calls")
case "$*" in
  kustomize*)
    printf 'kind: Job\nmetadata:\n  name: train-a\n  namespace: ns\n' ;;
  *"conditions"*)
    echo $((calls + 1)) > "$state/calls"
    [ $calls -lt 3 ] || echo "SuccessCriteriaMet Complete " ;;
  "get pods"*) echo pod/one; [ $calls -lt 3 ] || echo pod/two ;;
  *initContainers*) echo "train" ;;
  "logs"*)
    if [ ! -e "$state/ready" ]; then touch "$state/ready"; exit 1; fi
    echo "$4: a line" ;;
  *phase*) echo Pending ;;
esac
"""


def test_logs_wait_for_pods_and_follow_restarts(tmp_path):
    fake = tmp_path / "kubectl"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    (tmp_path / "calls").write_text("0")
    ended = subprocess.run(
        [ROOT / "k8s/logs", ROOT / "k8s/overlays/local"],
        env={**os.environ, "KUBECTL": str(fake)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    assert sorted(ended.stdout.splitlines()) == [
        "pod/one: a line",
        "pod/two: a line",
    ]
    assert "Job train-a: " in ended.stderr


def test_fetch_starts_the_pod_as_the_run_has_it(project, tmp_path):
    folder = write_run(
        project,
        ["OVERLAY=multi-node", "COMPONENTS=openshift", "IMAGE=registry/vgg:1"],
    )
    with (folder / "kustomization.yaml").open("a") as file:
        file.write("namespace: other\n")
    fake = tmp_path / "kubectl"
    fake.write_text(f"""#!/bin/bash
case "$1" in
  kustomize) exec {manifests.KUBECTL} "$@" ;;
  apply) cat > {tmp_path}/applied ;;
  exec) echo "$*" > {tmp_path}/executed; tar -cf - -T /dev/null ;;
esac
""")
    fake.chmod(0o755)
    subprocess.run(
        [project / "k8s/fetch", folder, tmp_path / "copy"],
        env={**os.environ, "KUBECTL": str(fake)},
        check=True,
    )
    [pod] = manifests.parse((tmp_path / "applied").read_text())
    assert pod["metadata"]["namespace"] == "other"
    assert pod["spec"]["containers"][0]["image"] == "registry/vgg:1"
    assert "fsGroup" not in str(pod)
    executed = (tmp_path / "executed").read_text()
    assert "-n other tools " in executed
    assert "/storage/runs/train-multi-node-docs " in executed


def test_fetch_names_the_bucket_of_a_run_without_a_volume(tmp_path):
    ended = subprocess.run(
        [ROOT / "k8s/fetch", ROOT / "k8s/overlays/gke", tmp_path],
        env={**os.environ, "KUBECTL": manifests.KUBECTL},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert "gs://BUCKET/runs/train-gke " in ended.stderr
