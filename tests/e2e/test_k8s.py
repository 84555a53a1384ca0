"""Every overlay: rendered, valid for each Kubernetes, and right beyond schemas.

No cluster is needed: kubectl renders, kubernetes-validate has the schemas of
its versions, `manifests` knows what they do not. Each of those checks is shown
to catch a manifest that breaks its rule.
"""

import copy
import os
import pathlib
import re
import runpy
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml

from job.config import ranges, serialization
from tests.support import manifests
from tests.support.jobs import ROOT

OVERLAYS = tuple(
    sorted(path.name for path in (ROOT / "k8s/overlays").iterdir())
)
# From the first in which podFailurePolicy is stable to the newest known.
VERSIONS = tuple(f"1.{minor}" for minor in range(31, 38))
KUBECTL = str(pathlib.Path(sys.executable).parent / "kubectl")

_rendered: dict[tuple, list[manifests.Manifest]] = {}


def run_render(*args: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [ROOT / "k8s/render", *args],
        env={**os.environ, "KUBECTL": KUBECTL, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def render(overlay: str, run: str = "run-1", *args: str, **environment: str):
    """Returns an overlay's documents, free to change."""
    key = (overlay, run, *args, *sorted(environment.items()))
    if key not in _rendered:
        if "gcs" in overlay:
            environment = {"BUCKET": "some-bucket", **environment}
        ended = run_render(overlay, run, *args, **environment)
        assert ended.returncode == 0, ended.stderr
        _rendered[key] = list(yaml.safe_load_all(ended.stdout))
    return copy.deepcopy(_rendered[key])


def validate(documents: list[manifests.Manifest], version: str) -> None:
    for document in documents:
        if document["kind"] == "JobSet":  # It has no schema.
            document = manifests.find(documents, "Job")
            document = {"apiVersion": "batch/v1", **document}
        # Of the command line an unknown kind is only a warning; this raises.
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_in_each_version(overlay):
    for version in VERSIONS:
        validate(render(overlay), version)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_right_beyond_its_schema(overlay):
    assert manifests.problems(render(overlay)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_takes_the_flags(overlay):
    assert manifests.refused_by_the_parser(render(overlay)) == ""


@pytest.mark.parametrize("run", ["007", "1e5", "0x1f", "2026-11-24", "null"])
def test_a_name_that_looks_like_a_number_is_a_name(run):
    documents = render("local", run)
    job = manifests.find(documents, "Job")
    assert job["metadata"]["name"] == f"train-{run}"
    assert job["spec"]["template"]["metadata"]["labels"]["run"] == run
    assert manifests.problems(documents) == []


@pytest.mark.parametrize("nodes", ["2", "4"])
def test_the_batch_splits_over_all_gpus_of_all_nodes(nodes):
    documents = render("multi-node", NODES=nodes, GPUS="8")
    file, _, variant = manifests.flag(documents, "config").partition(":")
    fields = runpy.run_path(ROOT / file)["get_config"](variant)
    ranges.check_replicas(serialization.flatten(fields), int(nodes) * 8)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_can_be_applied_without_the_script(overlay):
    ended = subprocess.run(
        [KUBECTL, "kustomize", ROOT / "k8s/overlays" / overlay],
        capture_output=True,
        text=True,
        check=True,
    )
    documents = list(yaml.safe_load_all(ended.stdout))
    assert manifests.problems(documents) == []


def test_the_namespace_is_restricted():
    text = (ROOT / "k8s/namespace/namespace.yaml").read_text()
    namespace = yaml.safe_load(text)
    for version in VERSIONS:
        kubernetes_validate.validate(namespace, version, strict=True)
    metadata = namespace["metadata"]
    level = metadata["labels"]["pod-security.kubernetes.io/enforce"]
    assert level == "restricted"
    names = {d["metadata"]["namespace"] for o in OVERLAYS for d in render(o)}
    assert names == {metadata["name"]}


def test_runs_differ_in_job_flags_and_workdir_and_share_the_volume():
    one, two = (render("gpu", run) for run in ("a", "b"))
    for kind, same in (
        ("Job", False),
        ("ConfigMap", False),
        ("PersistentVolumeClaim", True),
    ):
        names = [
            manifests.find(d, kind)["metadata"]["name"] for d in (one, two)
        ]
        assert (names[0] == names[1]) is same, names
    assert manifests.flag(one, "workdir") == "/storage/runs/a"
    assert manifests.flag(two, "workdir") == "/storage/runs/b"
    # By which `make k8s-delete` finds what a run alone has.
    labelled = {
        d["kind"] for d in one if d["metadata"].get("labels", {}).get("run")
    }
    assert labelled == {"Job", "ConfigMap"}


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        ("registry:5000/team/vgg:7-gpu", "registry:5000/team/vgg:7-gpu"),
        (f"vgg@sha256:{'a' * 64}", f"vgg:0.1.0-gpu@sha256:{'a' * 64}"),
    ],
)
def test_an_image_reaches_all_containers(image, wanted):
    documents = render("gpu", "a", image)
    pod = manifests.find(documents, "Job")["spec"]["template"]["spec"]
    images = {c["image"] for c in pod["containers"] + pod["initContainers"]}
    assert images <= {wanted, image}
    assert len(images) == 1


def test_the_number_of_gpus_reaches_what_asks_for_them():
    documents = render("gpu", "a", GPUS="8")
    assert manifests.problems(documents) == []
    limits = manifests.container(documents)["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "8"
    assert limits["memory"] == "16Gi", "the rest stays"


def test_the_number_of_nodes_reaches_what_must_know_it():
    documents = render("multi-node", "a", NODES="4", GPUS="8")
    assert manifests.problems(documents) == []
    spec = job_spec(documents)
    assert (spec["completions"], spec["parallelism"]) == (4, 4)
    environment = {e["name"]: e.get("value") for e in TRAIN(documents)["env"]}
    assert environment["JOB_WORKERS"] == "4"
    assert environment["JOB_REQUIRE_GPUS"] == "8"


def test_a_bucket_reaches_the_flags():
    documents = render("gke-spot-gcs", "a", BUCKET="my-bucket")
    assert manifests.flag(documents, "workdir") == "gs://my-bucket/runs/a"
    assert (
        manifests.flag(documents, "config.data.dir")
        == "gs://my-bucket/cifar-10-binary.tar.gz"
    )


@pytest.mark.parametrize(
    ("args", "environment", "words"),
    [
        (("nope", "a"), {}, "there are: ablation "),
        (("local", "A_b"), {}, "RUN=A_b"),
        (("local", "a" * 43), {}, "at most 42"),
        (("local", "a", "image"), {}, "with a tag or, better, a digest"),
        (("local", "a"), {"GPUS": "2"}, "runs on CPUs"),
        (("gpu", "a"), {"GPUS": "all"}, "a number from 1"),
        (("gpu", "a"), {"NODES": "2"}, "runs on one node"),
        (("multi-node", "a"), {"NODES": "0"}, "a number from 1"),
        (("gke-spot-gcs", "a"), {}, "needs BUCKET=NAME"),
        (("gke-spot-gcs", "a"), {"BUCKET": "gs://b"}, "without gs://"),
        (("local",), {}, "usage"),
    ],
)
def test_render_says_what_is_wrong(args, environment, words):
    ended = run_render(*args, **environment)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert not ended.stdout
    assert not list((ROOT / "k8s").glob(".render.*"))


@pytest.fixture
def make(tmp_path):
    """Runs make with a kubectl that renders, and writes down all else."""
    record = tmp_path / "record"
    fake = tmp_path / "kubectl"
    fake.write_text(
        f"""#!/bin/bash
if [ "$1" = kustomize ]; then exec {KUBECTL} "$@"; fi
echo "kubectl $*" >> {record}
if [ "${{*: -1}}" = - ]; then cat >> {record}; fi
"""
    )
    fake.chmod(0o755)

    def run_make(*args: str) -> tuple[subprocess.CompletedProcess, str]:
        ended = subprocess.run(
            ["make", "--silent", f"KUBECTL={fake}", *args],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return ended, record.read_text() if record.exists() else ""

    return run_make


def test_make_applies_a_run_of_its_own_name_and_says_it(make):
    ended, record = make("k8s-apply")
    assert ended.returncode == 0, ended.stderr
    name = re.search(r"make k8s-logs NAME=(local-\d{6}-\d{6}) ", ended.stdout)
    assert name, ended.stdout
    assert record.startswith("kubectl apply -k k8s/namespace\n")
    assert f"name: train-{name[1]}\n" in record


def test_make_applies_nothing_that_cannot_be_rendered(make):
    ended, record = make("k8s-apply", "OVERLAY=gpu", "GPUS=no")
    assert ended.returncode
    assert "a number from 1" in ended.stderr
    assert not record


def test_make_ends_only_the_run_that_is_named(make):
    ended, record = make("k8s-delete")
    assert ended.returncode
    assert "which run?" in ended.stdout + ended.stderr
    assert not record
    _, record = make("k8s-delete", "NAME=a")
    assert record == (
        "kubectl delete jobs,configmaps --namespace=vgg16-cifar10"
        " --selector=run=a\n"
        "kubectl api-resources --api-group=jobset.x-k8s.io --output=name\n"
    )


def test_the_ablation_has_a_pod_for_each_variant():
    documents = render("ablation")
    file, _, plan = manifests.flag(documents, "config").partition(":")
    variants = runpy.run_path(str(ROOT / file))["get_variants"](plan)
    seeds = int(manifests.flag(documents, "seeds") or 1)
    spec = manifests.find(documents, "Job")["spec"]
    assert spec["completions"] == len(variants) * seeds


def test_the_report_reads_what_the_ablation_wrote():
    ablation, report = render("ablation"), render("ablation-report")
    claim = manifests.find(ablation, "PersistentVolumeClaim")
    pod = manifests.find(report, "Job")["spec"]["template"]["spec"]
    claims = [
        v["persistentVolumeClaim"]["claimName"]
        for v in pod["volumes"]
        if "persistentVolumeClaim" in v
    ]
    assert claims == [claim["metadata"]["name"]]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert manifests.flag(ablation, "workdir") == manifests.flag(
        report, "workdir"
    )


def test_kueue_and_spot_have_what_makes_them_so():
    job = manifests.find(render("kueue"), "Job")
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    pod = manifests.find(render("gke-spot-gcs"), "Job")["spec"]["template"]
    tolerated = {t["key"] for t in pod["spec"]["tolerations"]}
    assert tolerated == {"nvidia.com/gpu", "cloud.google.com/gke-spot"}
    # What a spot node leaves its pods.
    assert pod["spec"]["terminationGracePeriodSeconds"] <= 15


def test_the_probe_waits_longer_than_the_jobs_own_watchdog():
    watchdog = pytest.importorskip("job.supervision.watchdog")
    for overlay in OVERLAYS:
        probe = manifests.container(render(overlay)).get("livenessProbe")
        if probe:
            seconds = int(re.search(r"-lt (\d+)", str(probe))[1])
            assert seconds > watchdog.LONG_SECONDS + 60


def test_the_image_writes_only_where_the_pod_lets_it():
    text = (ROOT / "Dockerfile").read_text()
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        assert re.search(rf"{name}=/tmp", text), name
    assert re.search(r"TFDS_DATA_DIR=/storage/", text)
    user = re.search(r"^USER (\d+):", text, re.MULTILINE)
    pod = manifests.find(render("local"), "Job")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(user[1])


def test_tags_in_manifests_are_the_projects_version():
    version = re.search(
        r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M
    )[1]
    for overlay in OVERLAYS:
        image = manifests.container(render(overlay))["image"]
        assert image.rpartition(":")[2] in (f"{version}-cpu", f"{version}-gpu")


def job_spec(documents):
    return manifests.find(documents, "Job")["spec"]


def pod_spec(documents):
    return job_spec(documents)["template"]["spec"]


def rule(documents, number):
    return job_spec(documents)["podFailurePolicy"]["rules"][number]


def set_flags(documents, old, new):
    flags = manifests.find(documents, "ConfigMap")["data"]
    for name, text in flags.items():
        flags[name] = text.replace(old, new)


def volume(documents, name):
    return next(v for v in pod_spec(documents)["volumes"] if v["name"] == name)


TRAIN = manifests.container

# What is broken -> what must be said.
MUTATIONS = {
    "restart policy": (
        lambda d: pod_spec(d).update(restartPolicy="OnFailure"),
        "restartPolicy",
    ),
    "no restart policy": (
        lambda d: pod_spec(d).pop("restartPolicy"),
        "restartPolicy",
    ),
    "action": (lambda d: rule(d, 0).update(action="Nope"), "action Nope"),
    "operator": (
        lambda d: rule(d, 0)["onExitCodes"].update(operator="Within"),
        "operator Within",
    ),
    "container of a rule": (
        lambda d: rule(d, 0)["onExitCodes"].update(containerName="main"),
        "no container main",
    ),
    "a code too few": (
        lambda d: rule(d, 0)["onExitCodes"].update(values=[2, 3, 4]),
        "fails for good on",
    ),
    "a preemption fails for good": (
        lambda d: rule(d, 0)["onExitCodes"]["values"].append(75),
        "fails for good on",
    ),
    "FailIndex": (lambda d: rule(d, 0).update(action="FailIndex"), "FailIndex"),
    "no disruptions": (
        lambda d: job_spec(d)["podFailurePolicy"]["rules"].pop(),
        "DisruptionTarget",
    ),
    "disruptions that are none": (
        lambda d: rule(d, 1)["onPodConditions"][0].update(status="False"),
        "DisruptionTarget",
    ),
    "no policy": (
        lambda d: job_spec(d).pop("podFailurePolicy"),
        "fails for good on",
    ),
    "two writers": (
        lambda d: job_spec(d).update(podReplacementPolicy="Terminating"),
        "podReplacementPolicy",
    ),
    "no deadline": (
        lambda d: job_spec(d).pop("activeDeadlineSeconds"),
        "no activeDeadlineSeconds",
    ),
    "kept for ever": (
        lambda d: job_spec(d).pop("ttlSecondsAfterFinished"),
        "no ttlSecondsAfterFinished",
    ),
    "no backoff": (
        lambda d: job_spec(d).pop("backoffLimit"),
        "no backoffLimit",
    ),
    "backoff of no index": (
        lambda d: job_spec(d).update(backoffLimitPerIndex=1),
        "without completionMode",
    ),
    "the same twice": (
        lambda d: job_spec(d).update(completions=2),
        "several completions",
    ),
    "name": (
        lambda d: manifests.find(d, "Job")["metadata"].update(name="Train_1"),
        "RFC 1123",
    ),
    "name of another": (
        lambda d: manifests.find(d, "ConfigMap")["metadata"].update(name="A"),
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
    "root": (
        lambda d: pod_spec(d)["securityContext"].update(runAsUser=0),
        "runAsUser",
    ),
    "perhaps root": (
        lambda d: pod_spec(d)["securityContext"].pop("runAsNonRoot"),
        "runAsNonRoot",
    ),
    "seccomp": (
        lambda d: pod_spec(d)["securityContext"].pop("seccompProfile"),
        "seccompProfile",
    ),
    "group of volumes": (
        lambda d: pod_spec(d)["securityContext"].pop("fsGroup"),
        "no fsGroup",
    ),
    "token": (
        lambda d: pod_spec(d).pop("automountServiceAccountToken"),
        "token is mounted",
    ),
    "host network": (
        lambda d: pod_spec(d).update(hostNetwork=True),
        "hostNetwork",
    ),
    "host path": (
        lambda d: pod_spec(d)["volumes"].append(
            {"name": "x", "hostPath": {"path": "/"}}
        ),
        "restricted: volume x",
    ),
    "escalation": (
        lambda d: TRAIN(d)["securityContext"].pop("allowPrivilegeEscalation"),
        "allowPrivilegeEscalation",
    ),
    "capabilities": (
        lambda d: TRAIN(d)["securityContext"].pop("capabilities"),
        "capabilities",
    ),
    "an init container's capabilities": (
        lambda d: pod_spec(d)["initContainers"][0]["securityContext"].pop(
            "capabilities"
        ),
        "data: not all capabilities",
    ),
    "writable root": (
        lambda d: TRAIN(d)["securityContext"].pop("readOnlyRootFilesystem"),
        "readOnlyRootFilesystem",
    ),
    "emulator": (
        lambda d: TRAIN(d)["env"].append(
            {"name": "STORAGE_EMULATOR_HOST", "value": "x"}
        ),
        "belongs in no manifest",
    ),
    "volume": (
        lambda d: pod_spec(d)["volumes"].remove(volume(d, "tmp")),
        "no such volume",
    ),
    "config map": (
        lambda d: volume(d, "flags")["configMap"].update(name="flags"),
        "no ConfigMap flags",
    ),
    "account": (
        lambda d: pod_spec(d).update(serviceAccountName="nobody"),
        "no ServiceAccount nobody",
    ),
    "quantity": (
        lambda d: TRAIN(d)["resources"]["limits"].update(memory="1GBB"),
        "1GBB is not a quantity",
    ),
    "no request": (
        lambda d: TRAIN(d)["resources"]["requests"].pop("memory"),
        "no request of memory",
    ),
    "no limit": (
        lambda d: pod_spec(d)["initContainers"][0]["resources"].pop("limits"),
        "no limit of memory",
    ),
    "request above limit": (
        lambda d: TRAIN(d)["resources"]["requests"].update(memory="17Gi"),
        "above the limit",
    ),
    "latest": (
        lambda d: TRAIN(d).update(image="vgg16-cifar10:latest-gpu"),
        "not pinned",
    ),
    "no tag": (
        lambda d: TRAIN(d).update(image="registry:5000/vgg16"),
        "not pinned",
    ),
    "no /tmp": (
        lambda d: TRAIN(d)["volumeMounts"].remove(
            {"name": "tmp", "mountPath": "/tmp"}
        ),
        "cannot be written to",
    ),
    "GPUs asked": (
        lambda d: TRAIN(d)["resources"]["requests"].update(
            {"nvidia.com/gpu": "2"}
        ),
        "request is not the limit",
    ),
    "GPUs required": (
        lambda d: next(
            e for e in TRAIN(d)["env"] if e["name"] == "JOB_REQUIRE_GPUS"
        ).update(value="2"),
        "JOB_REQUIRE_GPUS",
    ),
    "CPU image": (
        lambda d: TRAIN(d).update(image="vgg16-cifar10:0.1.0-cpu"),
        "do not go together",
    ),
    "taint": (lambda d: pod_spec(d).pop("tolerations"), "no toleration"),
    "/dev/shm": (
        lambda d: volume(d, "shm")["emptyDir"].pop("medium"),
        "no /dev/shm",
    ),
    "large /dev/shm": (
        lambda d: volume(d, "shm")["emptyDir"].update(sizeLimit="12Gi"),
        "which is too low",
    ),
    "grace": (
        lambda d: pod_spec(d).update(terminationGracePeriodSeconds=30),
        "grace is 30",
    ),
    "grace flag": (
        lambda d: set_flags(d, "--grace_seconds=60", "--grace_seconds=90"),
        "--grace_seconds=90",
    ),
    "variable": (lambda d: TRAIN(d).update(env=[]), "no such variable"),
    "workdir": (
        lambda d: TRAIN(d)["args"].append("--workdir=/storage/runs/x"),
        "run's name",
    ),
    "workdir nowhere": (
        lambda d: TRAIN(d)["args"].append("--workdir=/runs/run-1"),
        "on no volume",
    ),
    "data nowhere": (
        lambda d: set_flags(d, "/storage/data", "/data"),
        "on no volume",
    ),
    "fetches nothing": (
        lambda d: manifests.fetcher(d)["args"].remove("--mode=fetch"),
        "nobody fetches",
    ),
    "nobody fetches": (
        lambda d: pod_spec(d).pop("initContainers"),
        "nobody fetches",
    ),
    "heartbeat": (
        lambda d: set_flags(d, "/tmp/heartbeat", "/tmp/beat"),
        "livenessProbe does not look",
    ),
    "no probe": (
        lambda d: TRAIN(d).pop("startupProbe"),
        "startupProbe does not look",
    ),
    "policy for others": (
        lambda d: manifests.find(d, "NetworkPolicy")["spec"][
            "podSelector"
        ].update(matchLabels={"app": "x"}),
        "NetworkPolicy",
    ),
}


def worker_env(documents, name):
    return next(e for e in TRAIN(documents)["env"] if e["name"] == name)


def service_spec(documents):
    return manifests.find(documents, "Service")["spec"]


# The same, of an overlay for several nodes.
WORKER_MUTATIONS = {
    "no flag": (
        lambda d: TRAIN(d)["args"].pop(),
        "do not go together",
    ),
    "no number": (
        lambda d: TRAIN(d)["env"].remove(worker_env(d, "JOB_WORKERS")),
        "do not go together",
    ),
    "not indexed": (
        lambda d: job_spec(d).update(completionMode="NonIndexed"),
        "is not Indexed",
    ),
    "a pod too few": (
        lambda d: job_spec(d).update(parallelism=1),
        "are not JOB_WORKERS",
    ),
    "a worker too many": (
        lambda d: worker_env(d, "JOB_WORKERS").update(value="3"),
        "are not JOB_WORKERS",
    ),
    "one alone is restarted": (
        lambda d: job_spec(d).update(backoffLimitPerIndex=3),
        "leave the others waiting",
    ),
    "a lost peer costs a start": (
        lambda d: rule(d, 2)["onExitCodes"].update(values=[75]),
        "cost a start",
    ),
    "any worker's success": (
        lambda d: job_spec(d).pop("successPolicy"),
        "is not worker 0",
    ),
    "an index of our own": (
        lambda d: TRAIN(d)["env"].append(
            {"name": "JOB_COMPLETION_INDEX", "value": "0"}
        ),
        "Kubernetes' to set",
    ),
    "no index in the names": (
        lambda d: worker_env(d, "JOB_WORKER_HOSTS").update(value="a.workers"),
        "JOB_WORKER_HOSTS=a.workers",
    ),
    "names of another Job": (
        lambda d: worker_env(d, "JOB_WORKER_HOSTS").update(
            value="train-{index}.workers"
        ),
        "train-0.workers is not train-run-1-0.workers",
    ),
    "names of another Service": (
        lambda d: worker_env(d, "JOB_WORKER_HOSTS").update(
            value="$(JOB_NAME)-{index}.peers"
        ),
        "is not train-run-1-0.workers",
    ),
    "the Job's name comes too late": (
        lambda d: TRAIN(d)["env"].append(
            TRAIN(d)["env"].pop(
                TRAIN(d)["env"].index(worker_env(d, "JOB_NAME"))
            )
        ),
        "no HOST:PORT",
    ),
    "subdomain": (
        lambda d: pod_spec(d).update(subdomain="peers"),
        "no Service peers",
    ),
    "Service": (
        lambda d: manifests.find(d, "Service")["metadata"].update(name="peers"),
        "no Service workers",
    ),
    "an address": (
        lambda d: service_spec(d).pop("clusterIP"),
        "not headless",
    ),
    "names only when ready": (
        lambda d: service_spec(d).pop("publishNotReadyAddresses"),
        "publishNotReadyAddresses",
    ),
    "selector": (
        lambda d: service_spec(d).update(selector={"app": "x"}),
        "Service does not select",
    ),
    "port of the Service": (
        lambda d: service_spec(d)["ports"][0].update(port=80),
        "Service's port is not 2222",
    ),
    "port of the job": (
        lambda d: TRAIN(d)["env"].append(
            {"name": "JOB_WORKER_PORT", "value": "2223"}
        ),
        "container's port is not 2223",
    ),
    "closed to each other": (
        lambda d: next(
            n["spec"]
            for n in d
            if n["kind"] == "NetworkPolicy" and "ingress" in n["spec"]
        ).pop("ingress"),
        "lets them reach",
    ),
}


def jobset_spec(documents):
    return manifests.find(documents, "JobSet")["spec"]


def replicated_job(documents):
    return jobset_spec(documents)["replicatedJobs"][0]


JOBSET_MUTATIONS = {
    "version": (
        lambda d: manifests.find(d, "JobSet").update(apiVersion="jobset/v1"),
        "not a version",
    ),
    "field": (lambda d: jobset_spec(d).update(backoffLimit=1), "no field"),
    "field of a Job": (
        lambda d: replicated_job(d).update(replica=1),
        "no field replica of",
    ),
    "replicas": (lambda d: replicated_job(d).update(replicas=2), "several"),
    "name": (
        lambda d: manifests.find(d, "JobSet")["metadata"].update(
            name=f"train-{'a' * 50}"
        ),
        "too long a name",
    ),
    "a pod alone": (
        lambda d: job_spec(d).update(backoffLimit=6),
        "comes back alone",
    ),
    "an end of one": (
        lambda d: rule(d, 0).update(action="Ignore"),
        "not all pods' end",
    ),
    "two Services": (
        lambda d: jobset_spec(d)["network"].update(enableDNSHostnames=True),
        "Service of its own",
    ),
    "success of nobody": (
        lambda d: jobset_spec(d)["successPolicy"].update(
            targetReplicatedJobs=["x"]
        ),
        "of no Job",
    ),
    "restarts": (
        lambda d: jobset_spec(d)["failurePolicy"].pop("maxRestarts"),
        "maxRestarts",
    ),
    "action": (
        lambda d: jobset_spec(d)["failurePolicy"]["rules"][0].update(
            action="Fail"
        ),
        "no action Fail",
    ),
    "name of a rule": (
        lambda d: jobset_spec(d)["failurePolicy"]["rules"][0].update(
            name="for-good"
        ),
        "not the name of a rule",
    ),
    "restarted for ever": (
        lambda d: jobset_spec(d)["failurePolicy"]["rules"].pop(0),
        "fails for good on ['DeadlineExceeded']",
    ),
    "kept for ever": (
        lambda d: jobset_spec(d).pop("ttlSecondsAfterFinished"),
        "no ttlSecondsAfterFinished",
    ),
    "a worker too many": (
        lambda d: job_spec(d).update(completions=3),
        "are not JOB_WORKERS",
    ),
    "config map": (
        lambda d: volume(d, "flags")["configMap"].update(name="flags"),
        "no ConfigMap flags",
    ),
}


@pytest.mark.parametrize("name", JOBSET_MUTATIONS)
def test_a_broken_jobset_is_caught(name):
    mutate, words = JOBSET_MUTATIONS[name]
    documents = render("multi-node-jobset")
    mutate(documents)
    assert [line for line in manifests.problems(documents) if words in line]


def test_a_jobset_has_the_pods_of_the_job():
    one, other = (
        manifests.find(render(o, "a" * 42, NODES="3", GPUS="2"), "Job")["spec"]
        for o in ("multi-node", "multi-node-jobset")
    )
    for field in ("completions", "parallelism", "activeDeadlineSeconds"):
        assert one[field] == other[field]
    assert one["template"] == other["template"]
    documents = render("multi-node-jobset", "a" * 42, NODES="3", GPUS="2")
    assert manifests.problems(documents) == []


@pytest.mark.parametrize("name", WORKER_MUTATIONS)
def test_a_broken_manifest_for_several_nodes_is_caught(name):
    mutate, words = WORKER_MUTATIONS[name]
    documents = render("multi-node")
    mutate(documents)
    assert [line for line in manifests.problems(documents) if words in line]


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_manifest_is_caught(name):
    mutate, words = MUTATIONS[name]
    documents = render("gpu")
    mutate(documents)
    assert [line for line in manifests.problems(documents) if words in line]


@pytest.mark.parametrize(
    ("mutate", "error"),
    [
        (
            lambda d: job_spec(d).update(backofLimit=1),
            kubernetes_validate.ValidationError,
        ),
        (
            lambda d: rule(d, 0)["onExitCodes"].update(container="train"),
            kubernetes_validate.ValidationError,
        ),
        (
            lambda d: job_spec(d).update(backoffLimit="six"),
            kubernetes_validate.ValidationError,
        ),
        (
            lambda d: manifests.find(d, "Job").update(apiVersion="batch/v9"),
            kubernetes_validate.SchemaNotFoundError,
        ),
    ],
)
def test_a_schema_is_really_strict(mutate, error):
    documents = render("local")
    mutate(documents)
    for version in VERSIONS:
        with pytest.raises(error):
            validate(documents, version)


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.optimizer.momemtum=0.9", "momentum"),
        ("--config.optimizer.momentum=2", "momentum is 2.0"),
        ("--nope=1", "'nope'"),
        ("--config=configs/x.py", "configs/x.py"),
    ],
)
@pytest.mark.parametrize("find", [TRAIN, manifests.fetcher])
def test_a_wrong_flag_in_a_manifest_is_caught(flag, words, find):
    documents = render("pvc")
    find(documents)["args"].append(flag)
    assert words in manifests.refused_by_the_parser(documents)
