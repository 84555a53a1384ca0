"""Tests of k8s/, without a cluster: overlays are rendered and checked.

kubectl renders them, kubernetes-validate has the schemas of Kubernetes, and
`manifests` checks what schemas do not. Each of its rules is broken once.
"""

import os
import re
import runpy
import subprocess

import kubernetes_validate
import pytest

from job import errors
from job.config import ranges, serialization
from job.storage import gcs
from job.supervision import watchdog
from tests.support import manifests
from tests.support.jobs import ROOT

OVERLAYS = tuple(
    sorted(path.name for path in (ROOT / "k8s/overlays").iterdir())
)
# The oldest version in which podFailurePolicy is stable, to the newest known.
VERSIONS = ("1.31", "1.34", "1.37")


def validate(documents: list[manifests.Manifest], version: str) -> None:
    """Validates documents, and the Jobs that a JobSet creates."""
    for document in documents:
        if document["kind"] == "JobSet":
            for one in document["spec"]["replicatedJobs"]:
                job = {"apiVersion": "batch/v1", "kind": "Job"}
                job |= {"metadata": {"name": one["name"]}, **one["template"]}
                kubernetes_validate.validate(job, version, strict=True)
        elif not document["apiVersion"].startswith("kueue."):
            # The command line only warns about unknown kinds; this raises.
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(version):
    for overlay in OVERLAYS:
        validate(manifests.render(overlay), version)
    for folder in ("setup/volume-shared", "setup/kueue", "tools"):
        validate(manifests.load(ROOT / "k8s" / folder), version)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_no_problems(overlay):
    assert manifests.problems(manifests.render(overlay)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_holds_nothing_that_other_runs_need(overlay):
    documents = manifests.load(ROOT / "k8s/overlays" / overlay)
    kinds = sorted(document["kind"] for document in documents)
    assert kinds in (["ConfigMap", "Job"], ["ConfigMap", "JobSet"])
    # Two overlays do not replace each other's Job.
    for document in documents:
        if document["kind"] != "ConfigMap":
            assert document["metadata"]["name"] == f"train-{overlay}"


def test_the_jobs_parser_accepts_all_flags():
    lines = [
        line
        for overlay in OVERLAYS
        for line in manifests.command_lines(manifests.render(overlay))
    ]
    assert manifests.refused(lines) == [""] * len(lines)


def test_a_wrong_flag_is_refused():
    documents = manifests.render("pvc")
    [job] = manifests.jobs(documents)
    for container in manifests.containers(job):
        container["args"].append("--config.optimizer.momemtum=0.9")
    for said in manifests.refused(manifests.command_lines(documents)):
        assert "momentum" in said
    wrong = [["--nope=1"], ["--config=configs/x.py"], ["--grace_seconds=x"]]
    assert all(manifests.refused(wrong))


def test_the_namespace_is_restricted():
    namespace = manifests.find(manifests.render("local"), "Namespace")
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    folders = [ROOT / "k8s/overlays" / name for name in OVERLAYS]
    folders += [ROOT / "k8s/setup", ROOT / "k8s/setup/volume-shared"]
    for folder in (*folders, ROOT / "k8s/tools"):
        for document in manifests.load(folder):
            if document["kind"] != "Namespace":
                metadata = document["metadata"]
                assert metadata["namespace"] == namespace["metadata"]["name"]


def test_an_unset_bucket_is_a_wrong_flag():
    documents = manifests.render("gke")
    workdir = manifests.flag(documents, "workdir")
    assert workdir == "gs://SET_BUCKET/runs/train-gke"
    with pytest.raises(errors.ConfigError):
        gcs.split_url(workdir)


def test_the_ablation_has_a_pod_for_each_variant():
    documents = manifests.render("ablation")
    file, _, plan = manifests.flag(documents, "config").partition(":")
    variants = runpy.run_path(str(ROOT / file))["get_variants"](plan)
    seeds = int(manifests.flag(documents, "seeds") or 1)
    [job] = manifests.jobs(documents)
    assert job["spec"]["completions"] == len(variants) * seeds


def test_only_the_chief_of_a_jobset_has_a_volume():
    for overlay, wanted in (("multi-node", 1), ("gke-multi-node", 0)):
        documents = manifests.render(overlay)
        claims = [
            sum(
                "persistentVolumeClaim" in v
                for v in manifests.pod(j)["volumes"]
            )
            for j in manifests.jobs(documents)
        ]
        assert claims == [wanted, 0]


def test_a_spot_node_leaves_15_seconds():
    spot, on_demand = (
        manifests.pod(manifests.jobs(manifests.render(name))[0])
        for name in ("gke-spot", "gke")
    )
    assert spot["terminationGracePeriodSeconds"] == 15
    assert spot["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert "cloud.google.com/gke-spot" not in on_demand["nodeSelector"]
    assert len(spot["tolerations"]) == 2


def test_the_pod_for_results_is_restricted():
    [tools] = manifests.load(ROOT / "k8s/tools")
    documents = manifests.render("pvc")
    spec(documents)["template"]["spec"] = tools["spec"]
    found = manifests.problems(documents)
    words = ("restricted", "ServiceAccount", "Claim", "fsGroup", "token")
    assert not [line for line in found if any(w in line for w in words)]


def test_kueue_queues_a_job_and_covers_its_resources():
    job = manifests.find(manifests.load(ROOT / "k8s/overlays/kueue"), "Job")
    name = job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    queues = {d["kind"]: d for d in manifests.load(ROOT / "k8s/setup/kueue")}
    assert queues["LocalQueue"]["metadata"]["name"] == name
    [group] = queues["ClusterQueue"]["spec"]["resourceGroups"]
    # Kueue never admits a pod that requests another resource. A limit without a
    # request counts as a request.
    for overlay in ("kueue", "gke"):
        for container in manifests.containers(
            manifests.jobs(manifests.render(overlay))[0]
        ):
            for resources in container["resources"].values():
                assert resources.keys() <= {*group["coveredResources"]}
    assert "suspend" not in job["spec"]


def test_the_probe_waits_longer_than_the_jobs_own_watchdog():
    for overlay in OVERLAYS:
        for job in manifests.jobs(manifests.render(overlay)):
            probe = manifests.containers(job)[0]["livenessProbe"]
            seconds = int(re.search(r"-lt (\d+)", str(probe))[1])
            assert seconds > watchdog.LONG_SECONDS + 60


def test_the_image_writes_only_where_the_pod_lets_it():
    text = (ROOT / "Dockerfile").read_text()
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        assert re.search(rf"{name}=/tmp", text), name
    for name in ("TFDS_DATA_DIR", "CUDA_CACHE_PATH"):
        assert re.search(rf"{name}=/storage/", text), name
    # runAsNonRoot requires a number.
    assert set(re.findall(r"^USER (.*)$", text, re.M)) == {"10001:0"}


def test_the_gpu_image_finds_the_driver_of_gke():
    text = (ROOT / "Dockerfile").read_text()
    gpu = text[text.index("FROM runtime AS gpu") :]
    assert "LD_LIBRARY_PATH=/usr/local/nvidia/lib64" in gpu
    assert "PATH=$PATH:/usr/local/nvidia/bin" in gpu


def test_tags_are_the_projects_version():
    version = re.search(
        r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M
    )[1]
    for overlay in OVERLAYS:
        for job in manifests.jobs(manifests.render(overlay)):
            for container in manifests.containers(job):
                tag = container["image"].rpartition(":")[2]
                assert tag in (f"{version}-cpu", f"{version}-gpu")


# Runs that a user creates with make.


@pytest.fixture
def make(tmp_path):
    """Runs make with a kubectl that renders and records all other calls."""
    record = tmp_path / "record"
    fake = tmp_path / "kubectl"
    fake.write_text(
        f"""#!/bin/bash
if [ "$1" = kustomize ]; then exec {manifests.KUBECTL} "$@"; fi
echo "kubectl $*" >> {record}
if [ "$1" = apply ] && [ -e {tmp_path}/exists ]; then
  echo "job.batch/train-local-b unchanged"
fi
"""
    )
    fake.chmod(0o755)
    project = manifests.copy_project(tmp_path)

    def run_make(target, *args, name="test"):
        ended = subprocess.run(
            [
                *("make", "--silent", f"KUBECTL={fake}", target, *args),
                *([f"NAME={name}"] if name else []),
            ],
            cwd=project,
            capture_output=True,
            text=True,
            check=False,
            # Make must ignore these variables of the environment.
            env={**os.environ, "BUCKET": "other", "GPUS": "3", "NAME": "host"},
        )
        return ended, record.read_text() if record.exists() else ""

    return run_make


def render_run(make, *args, **kwargs):
    """Returns the documents of a run that make writes, after k8s/setup."""
    ended, _ = make(
        "k8s-render", "IMAGE=registry:5000/vgg:1-gpu", *args, **kwargs
    )
    assert ended.returncode == 0, ended.stderr
    return manifests.with_setup(manifests.parse(ended.stdout))


SIZES = {
    "gpu": ["GPUS=8", "COMPONENTS=kueue"],
    "multi-node": ["GPUS=8", "NODES=4", "COMPONENTS=kueue"],
    "multi-node-job": ["GPUS=4", "NODES=4"],
    "gke-multi-node": ["GPUS=2", "NODES=4", "BUCKET=my-bucket"],
    "gke-spot": ["BUCKET=my-bucket"],
}


@pytest.mark.parametrize("overlay", SIZES)
def test_a_run_of_ones_own_refers_to_the_setup(make, overlay):
    documents = render_run(
        make, f"OVERLAY={overlay}", *SIZES[overlay], name="a"
    )
    assert manifests.problems(documents) == []
    validate(documents, VERSIONS[-1])
    images = {
        container["image"]
        for job in manifests.jobs(documents)
        for container in manifests.containers(job)
    }
    assert images == {"registry:5000/vgg:1-gpu"}
    assert manifests.flag(documents, "workdir").endswith(f"/train-{overlay}-a")
    if "BUCKET=my-bucket" in SIZES[overlay]:
        data = manifests.flag(documents, "config.data.dir")
        assert data == "gs://my-bucket/cifar-10-binary.tar.gz"


def test_a_component_with_a_bucket_has_the_bucket_of_the_run(make):
    documents = render_run(
        make, "OVERLAY=local", "COMPONENTS=gcs", "BUCKET=my-b", name="a"
    )
    assert manifests.find(documents, "ConfigMap")["data"]["BUCKET"] == "my-b"


def _create_config(documents):
    """Returns the config that the flags of manifests name."""
    file, _, variant = manifests.flag(documents, "config").partition(":")
    get_config = runpy.run_path(str(ROOT / file))["get_config"]
    return get_config(variant) if variant else get_config()


@pytest.mark.parametrize("nodes", [2, 4])
def test_gpus_and_nodes_reach_pods_memory_and_batch(make, nodes):
    documents = render_run(
        make, "OVERLAY=multi-node", "GPUS=8", f"NODES={nodes}"
    )
    pods = [job["spec"]["completions"] for job in manifests.jobs(documents)]
    assert pods == [1, nodes - 1]
    for job in manifests.jobs(documents):
        limits = manifests.containers(job)[0]["resources"]["limits"]
        assert limits == {"memory": "44Gi", "nvidia.com/gpu": "8"}
    fields = serialization.flatten(_create_config(documents))
    ranges.check_replicas(fields, nodes * 8)


def test_config_and_args_reach_the_flags(make):
    documents = render_run(
        make,
        *("OVERLAY=pvc", "CONFIG=configs/stem32.py:20ep"),
        "ARGS=--config.epochs=5 --config.seed=7",
    )
    line = manifests.command_lines(documents)[0]
    assert [a for a in line if a.startswith("--config=")] == [
        "--config=configs/stem32.py:20ep"
    ]
    assert line[-2:] == ["--config.epochs=5", "--config.seed=7"]
    assert manifests.refused([line]) == [""]


@pytest.mark.parametrize("name", ["007", "1e5", "null"])
def test_a_name_that_looks_like_a_number_is_a_name(make, name):
    documents = render_run(make, "IMAGE=vgg:1-cpu", name=name)
    assert manifests.find(documents, "Job")["metadata"]["name"] == (
        f"train-local-{name}"
    )
    assert manifests.problems(documents) == []


def test_an_image_may_have_a_digest(make):
    image = f"vgg@sha256:{'a' * 64}"
    documents = render_run(make, f"IMAGE={image}")
    [job] = manifests.jobs(documents)
    assert manifests.containers(job)[0]["image"].endswith(image[3:])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["IMAGE="], "IMAGE=: "),
        (["IMAGE=vgg"], "tag or digest"),
        (["OVERLAY=nope"], "one of ablation, "),
        (["NAME=A_b"], "NAME=A_b: "),
        (["NAME=" + "a" * 40], "more than 46"),
        (["GPUS=2"], "no effect on OVERLAY=local"),
        (["NODES=2", "OVERLAY=gpu"], "no effect on OVERLAY=gpu"),
        (["NODES=1", "OVERLAY=multi-node"], "an integer from 2"),
        (["GPUS=all", "OVERLAY=gpu"], "GPUS=all: "),
        (["BUCKET=b-1"], "no effect on OVERLAY=local"),
        (["OVERLAY=gke"], "Fix: set BUCKET="),
        (["OVERLAY=gke", "BUCKET=gs://b"], "without gs://"),
        (["COMPONENTS=nope"], "k8s/components"),
        (["COMPONENTS=gke", "OVERLAY=multi-node"], "no effect on a JobSet"),
        (["COMPONENTS=openshift"], "without a volume"),
        (["COMPONENTS=gcs"], "set BUCKET=NAME"),
        (["NODES=3", "OVERLAY=multi-node"], "do not divide the batch of 256"),
        (
            [
                *("OVERLAY=multi-node-cpu", "COMPONENTS=jobset"),
                "NODES=3",
            ],
            "no effect with COMPONENTS=jobset",
        ),
        (["ARGS=--seeds=3", "OVERLAY=ablation"], "fixed by the overlay"),
        (
            ["GPUS=3", "OVERLAY=gpu"],
            "3 replicas do not divide the batch of 256",
        ),
        (
            [
                *("GPUS=8", "NODES=2", "OVERLAY=multi-node"),
                "ARGS=--config.global_batch_size=24",
            ],
            "16 replicas do not divide the batch of 24",
        ),
        (["ARGS=--workdir=/storage/a"], "ARGS=--workdir=/storage/a: "),
        (["ARGS=--grace_seconds=5"], "fixed by the overlay"),
        (
            [
                *("OVERLAY=gke", "BUCKET=b-1"),
                "ARGS=--config.data.dir=gs://other",
            ],
            "fixed by the overlay",
        ),
        (["ARGS=--config.model.init='he"], "No closing quotation"),
        (["KUBECTL=true"], "KUBECTL=true: `kustomize` printed no Job"),
        (
            ["CONFIG=configs/naive.py", "OVERLAY=ablation"],
            "the plan sets",
        ),
        (["DATA=/data"], "DATA has no effect"),
        (["PLAN=x"], "PLAN has no effect"),
    ],
)
def test_make_refuses_what_it_cannot_apply(make, args, words):
    ended, record = make("k8s-run", "IMAGE=vgg:1", *args, name="")
    assert ended.returncode
    assert words in ended.stderr
    assert not record


def test_a_name_belongs_to_one_overlay(make):
    render_run(make, "OVERLAY=pvc", name="a")
    render_run(make, "OVERLAY=pvc", name="a")
    ended, _ = make("k8s-run", "IMAGE=vgg:1", "OVERLAY=local", name="a")
    assert ended.returncode
    assert "NAME=a: the run exists with OVERLAY=pvc. Fix: " in ended.stderr


def test_the_batch_of_make_is_that_of_the_overlays():
    text = (ROOT / "k8s/new-run").read_text()
    size = int(re.search(r"^GLOBAL_BATCH_SIZE = (\d+)", text, re.M)[1])
    for overlay in {*OVERLAYS} - {"ablation"}:
        documents = manifests.render(overlay)
        if "GPUS" in manifests.find(documents, "ConfigMap")["data"]:
            config = _create_config(documents)
            assert config.global_batch_size == size, overlay


def test_make_applies_and_deletes_only_the_run_of_a_name(make, tmp_path):
    ended, record = make("k8s-run", "IMAGE=vgg:1", name="b")
    assert ended.returncode == 0, ended.stderr
    assert "make k8s-logs NAME=b " in ended.stdout
    assert record == "kubectl apply -k k8s/runs/b\n"
    (tmp_path / "exists").touch()
    ended, _ = make("k8s-run", "IMAGE=vgg:1", name="b")
    assert ended.returncode
    assert "the run exists already" in ended.stderr
    ended, record = make("k8s-delete", name="b")
    assert record.splitlines()[-1] == (
        "kubectl delete --cascade=foreground -k k8s/runs/b"
    )
    ended, _ = make("k8s-delete", name="")
    assert "no such run" in ended.stderr


# Changes that break a manifest, and words of the resulting problem.


def spec(documents):
    return manifests.jobs(documents)[0]["spec"]


def pod(documents):
    return manifests.pod(manifests.jobs(documents)[0])


def train(documents):
    return manifests.containers(manifests.jobs(documents)[0])[0]


def rule(documents, number):
    return spec(documents)["podFailurePolicy"]["rules"][number]


def volume(documents, name):
    return next(v for v in pod(documents)["volumes"] if v["name"] == name)


def variable(documents, name):
    return next(e for e in train(documents)["env"] if e["name"] == name)


def replace_flag(documents, old, new):
    data = manifests.find(documents, "ConfigMap")["data"]
    for name, text in data.items():
        data[name] = text.replace(old, new)


def of(kind):
    return lambda documents: manifests.find(documents, kind)


GPU = {
    "restart policy": (
        lambda d: pod(d).update(restartPolicy="OnFailure"),
        "Never",
    ),
    "a wrong flag of the init container is retried": (
        lambda d: rule(d, 0)["onExitCodes"].update(containerName="train"),
        "permanent are",
    ),
    "a failed download is permanent": (
        lambda d: rule(d, 1)["onExitCodes"].pop("containerName"),
        "permanent are",
    ),
    "a preemption is permanent": (
        lambda d: rule(d, 1)["onExitCodes"]["values"].append(75),
        "permanent are",
    ),
    "operator": (
        lambda d: rule(d, 0)["onExitCodes"].update(operator="Within"),
        "not In",
    ),
    "action": (lambda d: rule(d, 0).update(action="Nope"), "permanent are"),
    "disruptions count": (
        lambda d: rule(d, 2)["onPodConditions"][0].update(status="False"),
        "DisruptionTarget",
    ),
    "no policy": (lambda d: spec(d).pop("podFailurePolicy"), "permanent are"),
    "two writers": (
        lambda d: spec(d).update(podReplacementPolicy="TerminatingOrFailed"),
        "podReplacementPolicy",
    ),
    "deadline of a day": (
        lambda d: spec(d).update(activeDeadlineSeconds=86400),
        "below a week",
    ),
    "kept for ever": (
        lambda d: spec(d).pop("ttlSecondsAfterFinished"),
        "ttlSecondsAfterFinished",
    ),
    "no backoff": (lambda d: spec(d).pop("backoffLimit"), "no backoffLimit"),
    "autoscaler": (
        lambda d: spec(d)["template"]["metadata"].pop("annotations"),
        "autoscaler",
    ),
    "name": (
        lambda d: manifests.find(d, "ConfigMap")["metadata"].update(name="A_1"),
        "RFC 1123",
    ),
    "long name": (
        lambda d: manifests.find(d, "Job")["metadata"].update(name="a" * 60),
        "too long",
    ),
    "namespace": (
        lambda d: manifests.find(d, "Job")["metadata"].pop("namespace"),
        "no namespace",
    ),
    "perhaps root": (
        lambda d: pod(d)["securityContext"].pop("runAsNonRoot"),
        "runAsNonRoot",
    ),
    "fixed user": (
        lambda d: pod(d)["securityContext"].update(runAsUser=10001),
        "OpenShift",
    ),
    "seccomp": (
        lambda d: pod(d)["securityContext"].pop("seccompProfile"),
        "seccompProfile",
    ),
    "group of volumes": (
        lambda d: pod(d)["securityContext"].pop("fsGroup"),
        "no fsGroup",
    ),
    "token": (lambda d: pod(d).pop("automountServiceAccountToken"), "token"),
    "host network": (lambda d: pod(d).update(hostNetwork=True), "host"),
    "host path": (
        lambda d: pod(d)["volumes"].append({"name": "x", "hostPath": {}}),
        "restricted: volume x",
    ),
    "escalation": (
        lambda d: train(d)["securityContext"].pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation",
    ),
    "capabilities of the init container": (
        lambda d: pod(d)["initContainers"][0]["securityContext"].pop(
            "capabilities"
        ),
        "data: not all capabilities",
    ),
    "writable root": (
        lambda d: train(d)["securityContext"].pop("readOnlyRootFilesystem"),
        "readOnlyRootFilesystem",
    ),
    "emulator": (
        lambda d: train(d)["env"].append(
            {"name": "STORAGE_EMULATOR_HOST", "value": "x"}
        ),
        "must not be in a manifest",
    ),
    "volume": (
        lambda d: pod(d)["volumes"].remove(volume(d, "tmp")),
        "no volume tmp",
    ),
    "config map": (
        lambda d: volume(d, "flags")["configMap"].update(name="flags"),
        "no ConfigMap flags in",
    ),
    "key": (
        lambda d: manifests.find(d, "ConfigMap")["data"].pop("GPUS"),
        "no key GPUS",
    ),
    "claim": (
        lambda d: volume(d, "storage")["persistentVolumeClaim"].update(
            claimName="storage-a"
        ),
        "no PersistentVolumeClaim storage-a",
    ),
    "namespace of the claim": (
        lambda d: manifests.find(d, "PersistentVolumeClaim")["metadata"].update(
            namespace="default"
        ),
        "no PersistentVolumeClaim storage in vgg16",
    ),
    "account": (
        lambda d: pod(d).update(serviceAccountName="other"),
        "no ServiceAccount other",
    ),
    "quantity": (
        lambda d: train(d)["resources"]["limits"].update(memory="1GBB"),
        "1GBB is not a quantity",
    ),
    "no request": (
        lambda d: train(d)["resources"]["requests"].pop("memory"),
        "no request of memory",
    ),
    "no limit": (
        lambda d: pod(d)["initContainers"][0]["resources"].pop("limits"),
        "no limit of memory",
    ),
    "request above limit": (
        lambda d: train(d)["resources"]["requests"].update(memory="17Gi"),
        "above the limit",
    ),
    "latest": (lambda d: train(d).update(image="vgg:latest-gpu"), "not pinned"),
    "no tag": (lambda d: train(d).update(image="a:5000/vgg"), "not pinned"),
    "no /tmp": (
        lambda d: train(d)["volumeMounts"].remove(
            {"name": "tmp", "mountPath": "/tmp"}
        ),
        "/tmp is not writable",
    ),
    "GPUs requested": (
        lambda d: train(d)["resources"]["requests"].update(
            {"nvidia.com/gpu": "2"}
        ),
        "GPUs: 2 requested",
    ),
    "GPUs required": (
        lambda d: manifests.find(d, "ConfigMap")["data"].update(GPUS="2"),
        "2 required",
    ),
    "CPU image": (
        lambda d: train(d).update(image="vgg:1-cpu"),
        "GPUs: the image",
    ),
    "taint": (lambda d: pod(d).pop("tolerations"), "no toleration"),
    "/dev/shm": (
        lambda d: volume(d, "shm")["emptyDir"].pop("medium"),
        "no /dev/shm",
    ),
    "large /dev/shm": (
        lambda d: volume(d, "shm")["emptyDir"].update(sizeLimit="12Gi"),
        "too low",
    ),
    "grace": (
        lambda d: pod(d).update(terminationGracePeriodSeconds=30),
        "grace period is 30",
    ),
    "variable": (lambda d: train(d).update(env=[]), "is not set"),
    "workdir": (
        lambda d: train(d)["args"].append("--workdir=/storage/runs/x"),
        "run's name",
    ),
    "workdir on no volume": (
        lambda d: train(d)["args"].append("--workdir=/runs/train-gpu"),
        "on no volume",
    ),
    "data on no volume": (
        lambda d: replace_flag(d, "/storage/data", "/data"),
        "on no volume",
    ),
    "no download": (
        lambda d: pod(d).pop("initContainers"),
        "no container fetches",
    ),
    "heartbeat": (
        lambda d: replace_flag(d, "/tmp/heartbeat", "/tmp/beat"),
        "livenessProbe",
    ),
    "policy for others": (
        lambda d: of("NetworkPolicy")(d)["spec"]["podSelector"].update(
            matchLabels={"app": "x"}
        ),
        "NetworkPolicy",
    ),
}

SEVERAL_NODES = {
    "no flag": (lambda d: train(d)["args"].pop(), "do not agree"),
    "no number": (
        lambda d: train(d)["env"].remove(variable(d, "JOB_WORKERS")),
        "do not agree",
    ),
    "not indexed": (
        lambda d: spec(d).update(completionMode="NonIndexed"),
        "not Indexed",
    ),
    "a pod too few": (
        lambda d: spec(d).update(completions=1, parallelism=1),
        "of 2 workers have a pod",
    ),
    "pods one after another": (
        lambda d: spec(d).update(parallelism=1),
        "completions is not parallelism",
    ),
    "a worker too many": (
        lambda d: of("ConfigMap")(d)["data"].update(WORKERS="3"),
        "of 3 workers have a pod",
    ),
    "one restarts alone": (
        lambda d: spec(d).update(backoffLimitPerIndex=3),
        "restarts one worker alone",
    ),
    "a lost worker counts": (
        lambda d: rule(d, 3)["onExitCodes"].update(values=[75]),
        "75 and 76",
    ),
    "any worker's success": (
        lambda d: spec(d).pop("successPolicy"),
        "worker 0",
    ),
    "an index": (
        lambda d: train(d)["env"].append(
            {"name": "JOB_COMPLETION_INDEX", "value": "0"}
        ),
        "set by Kubernetes",
    ),
    "no index in the names": (
        lambda d: variable(d, "JOB_WORKER_HOSTS").update(value="a.workers"),
        "JOB_WORKER_HOSTS=a.workers",
    ),
    "names of another Job": (
        lambda d: variable(d, "JOB_WORKER_HOSTS").update(
            value="train-{index}.workers"
        ),
        "train-0.workers:2222 is not train-multi-node-job-0.workers",
    ),
    "names before the variable": (
        lambda d: train(d)["env"].append(train(d)["env"].pop(0)),
        "HOST:PORT",
    ),
    "subdomain": (lambda d: pod(d).update(subdomain="x"), "no Service x"),
    "an address": (
        lambda d: of("Service")(d)["spec"].pop("clusterIP"),
        "headless",
    ),
    "names only when ready": (
        lambda d: of("Service")(d)["spec"].pop("publishNotReadyAddresses"),
        "publishNotReadyAddresses",
    ),
    "selector": (
        lambda d: of("Service")(d)["spec"].update(selector={"app": "x"}),
        "Service does not select",
    ),
    "port": (
        lambda d: train(d)["env"].append(
            {"name": "JOB_WORKER_PORT", "value": "2223"}
        ),
        "another port",
    ),
}


def jobset(documents):
    return manifests.find(documents, "JobSet")["spec"]


JOBSET = {
    "several Jobs": (
        lambda d: jobset(d)["replicatedJobs"][1].update(replicas=2),
        "several",
    ),
    "long name": (
        lambda d: of("JobSet")(d)["metadata"].update(name="a" * 50),
        "too long",
    ),
    "one restarts alone": (lambda d: spec(d).update(backoffLimit=6), "alone"),
    "two Services": (lambda d: jobset(d).pop("network"), "second Service"),
    "success of a worker": (
        lambda d: jobset(d)["successPolicy"].update(targetReplicatedJobs=["w"]),
        "success of the chief",
    ),
    "restarts": (
        lambda d: jobset(d)["failurePolicy"].update(maxRestarts=5),
        "maxRestarts",
    ),
    "restarted for ever": (
        lambda d: jobset(d)["failurePolicy"]["rules"].pop(0),
        "permanent are ['DeadlineExceeded']",
    ),
    "no offset": (
        lambda d: jobset(d)["replicatedJobs"][1]["template"]["spec"][
            "template"
        ]["spec"]["containers"][0]["env"].pop(),
        "[0] of 2 workers",
    ),
    "kept for ever": (
        lambda d: jobset(d).pop("ttlSecondsAfterFinished"),
        "ttlSecondsAfterFinished",
    ),
}


@pytest.mark.parametrize(
    ("overlay", "mutate", "words"),
    [
        pytest.param(overlay, *case, id=f"{overlay}: {name}")
        for overlay, cases in (
            ("gpu", GPU),
            ("multi-node-job", SEVERAL_NODES),
            ("multi-node", JOBSET),
        )
        for name, case in cases.items()
    ],
)
def test_a_broken_manifest_is_found(overlay, mutate, words):
    documents = manifests.render(overlay)
    mutate(documents)
    found = manifests.problems(documents)
    assert [line for line in found if words in line], found


@pytest.mark.parametrize(
    ("mutate", "error"),
    [
        (
            lambda d: spec(d).update(backofLimit=1),
            kubernetes_validate.ValidationError,
        ),
        (
            lambda d: rule(d, 0)["onExitCodes"].update(container="train"),
            kubernetes_validate.ValidationError,
        ),
        (
            lambda d: manifests.find(d, "Job").update(apiVersion="batch/v9"),
            kubernetes_validate.SchemaNotFoundError,
        ),
    ],
)
def test_the_schemas_are_strict(mutate, error):
    documents = manifests.render("local")
    mutate(documents)
    with pytest.raises(error):
        validate(documents, VERSIONS[0])
