"""Checks of Kubernetes manifests that no schema makes.

kubernetes-validate knows fields and types. These functions check what several
fields, files or programs have to agree on: a policy and the job's exit codes, a
flag and the pod's grace period, a worker's host name and the Service.

    documents = render("gpu")
    problems(documents)                   # [] or one line per problem
"""

import copy
import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from job import errors
from job.distribute import environment as cluster
from tests.support.jobs import ROOT

Manifest = dict[str, Any]

KUBECTL = str(pathlib.Path(sys.executable).parent / "kubectl")
# What a user applies before the first run.
SETUP = ("setup", "setup/volume")

# Exit codes that no restart fixes, except a wrong flag (2).
PERMANENT = {
    kind.exit_code
    for kind in (
        errors.DataError,
        errors.StorageError,
        errors.ResumeError,
        errors.DivergedError,
    )
}

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(|m|k|M|G|T|Ki|Mi|Gi|Ti)")
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_GPU = "nvidia.com/gpu"
# Memory of TensorFlow with CUDA and of the images, on the host.
_GPU_JOB_BYTES = 6 * 2**30


def kustomize(folder: pathlib.Path) -> str:
    """Returns the manifests of a kustomization as text.

    Args:
      folder: Directory with a kustomization.yaml.

    Raises:
      ValueError: kubectl refuses it; the message is kubectl's.
    """
    ended = subprocess.run(
        [KUBECTL, "kustomize", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise ValueError(ended.stderr)
    return ended.stdout


def copy_project(folder: pathlib.Path) -> pathlib.Path:
    """Copies what `make k8s-run` needs, and returns the copy.

    A run that a test writes then replaces none of the user's.
    """
    shutil.copytree(
        ROOT / "k8s", folder / "k8s", ignore=shutil.ignore_patterns("runs")
    )
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def load(folder: pathlib.Path) -> list[Manifest]:
    """Returns new copies of the documents of a kustomization."""
    if folder.is_relative_to(ROOT):  # It does not change.
        return copy.deepcopy(_load_once(folder))
    return parse(kustomize(folder))


def parse(text: str) -> list[Manifest]:
    """Returns the documents of a YAML text."""
    return list(yaml.load_all(text, yaml.CSafeLoader))


@functools.cache
def _load_once(folder: pathlib.Path) -> list[Manifest]:
    return parse(kustomize(folder))


def render(overlay: str) -> list[Manifest]:
    """Returns an overlay's documents, after those of k8s/setup."""
    return with_setup(load(ROOT / "k8s/overlays" / overlay))


def with_setup(documents: list[Manifest]) -> list[Manifest]:
    """Returns documents, after those that a user applies first."""
    return [d for name in SETUP for d in load(ROOT / "k8s" / name)] + documents


def find(documents: list[Manifest], kind: str) -> Manifest:
    """Returns the only document of a kind."""
    [one] = [d for d in documents if d["kind"] == kind]
    return one


def jobs(documents: list[Manifest]) -> list[Manifest]:
    """Returns the Job, or the Jobs that the JobSet creates.

    They share their fields with the documents. Their pods' labels include those
    that the controllers add.
    """
    found = [
        (d["metadata"]["name"], d) for d in documents if d["kind"] == "Job"
    ]
    own: Mapping[str, str] = {}
    for jobset in documents:
        if jobset["kind"] == "JobSet":
            name = jobset["metadata"]["name"]
            own = {"jobset.sigs.k8s.io/jobset-name": name}
            found += [
                (f"{name}-{one['name']}-0", one["template"])
                for one in jobset["spec"]["replicatedJobs"]
            ]
    return [
        {
            "name": name,
            "spec": job["spec"],
            "labels": {
                **job["spec"]["template"]["metadata"].get("labels", {}),
                **own,
                "batch.kubernetes.io/job-name": name,
            },
        }
        for name, job in found
    ]


def pod(job: Manifest) -> Manifest:
    """Returns the pod specification of a Job."""
    return job["spec"]["template"]["spec"]


def containers(job: Manifest) -> list[Manifest]:
    """Returns the container that trains, then the init containers."""
    return [*pod(job)["containers"], *pod(job).get("initContainers", [])]


def arguments(
    documents: list[Manifest], job: Manifest, container: Manifest
) -> list[str]:
    """Returns the job's arguments as the process sees them.

    The lines of a flag file replace its flag, without comments.
    """
    values = environment(documents, job, container)
    files = _files(documents, job, container)
    result = []
    for argument in container.get("args", []):
        text = _expand(argument, values)
        name = text.removeprefix("--flagfile=")
        if name == text:
            result.append(text)
        else:
            lines = files.get(name, f"--no_such_file={name}").splitlines()
            result += [ln for ln in lines if ln and not ln.startswith("#")]
    return result


def environment(
    documents: list[Manifest], job: Manifest, container: Manifest
) -> dict[str, str]:
    """Returns a container's variables as the process sees them."""
    maps = _config_maps(documents)
    values: dict[str, str] = {}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        found = entry.get("value")
        if "configMapKeyRef" in source:
            key = source["configMapKeyRef"]
            found = maps.get(key["name"], {}).get(key["key"])
        elif "fieldRef" in source:
            label = re.fullmatch(
                r"metadata\.labels\['(.*)'\]", source["fieldRef"]["fieldPath"]
            )
            found = job["labels"].get(label[1]) if label else None
        if found is not None:
            # Kubernetes expands only variables that are defined above.
            values[entry["name"]] = _expand(found, values)
    return values


def flag(documents: list[Manifest], name: str) -> str | None:
    """Returns the last value of a flag of the training container, or None."""
    job = jobs(documents)[0]
    values = [
        argument.partition("=")[2]
        for argument in arguments(documents, job, containers(job)[0])
        if argument.partition("=")[0] == f"--{name}"
    ]
    return values[-1] if values else None


def command_lines(documents: list[Manifest]) -> list[list[str]]:
    """Returns the arguments of all containers that run the job."""
    return [
        arguments(documents, job, container)
        for job in jobs(documents)
        for container in containers(job)
    ]


def refused(command_lines: Sequence[Sequence[str]]) -> list[str]:
    """Returns the parser's error for each command line, or "" if there is none.

    One process imports the parser and forks once per command line.

    Args:
      command_lines: Arguments of the job, without the program's name.
    """
    program = """
import json, os, sys
from job import errors, flags
for arguments in json.load(sys.stdin):
    reader, writer = os.pipe()
    if not os.fork():
        try:
            flags.parse(["job", *arguments])
            if flags.CONFIG.value: flags.require_config()
            for name in ("grace_seconds", "watchdog_seconds"):
                flags.require_seconds(name)
        except errors.JobError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    print(json.dumps(os.fdopen(reader).read()))
    os.wait()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([[*line] for line in command_lines]),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "JOB_REQUIRE_GPUS": ""},
    )
    assert not ended.returncode, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def quantity(text: object) -> float | None:
    """Returns the number of a quantity such as 4Gi; None if it is invalid."""
    match = _QUANTITY.fullmatch(str(text))
    return float(match[1]) * _UNITS[match[2]] if match else None


def problems(documents: list[Manifest]) -> list[str]:
    """Returns the problems of a run and of what it refers to, one per line."""
    jobset = next((d for d in documents if d["kind"] == "JobSet"), None)
    found = [*_names(documents), *(_jobset(jobset) if jobset else ())]
    for job in jobs(documents):
        found += [
            *_lifetime(job, jobset["spec"] if jobset else job["spec"]),
            *_failure_policy(job["spec"], is_jobset=jobset is not None),
            *_security(job),
            *_references(documents, job),
            *_network(documents, job),
            *_gpus(documents, job),
            *_flags(documents, job),
        ]
        for container in containers(job):
            found += _container(container)
    return [*found, *_workers(documents)]


def _names(documents: list[Manifest]) -> Iterator[str]:
    for document in documents:
        kind, metadata = document["kind"], document["metadata"]
        if not _NAME.fullmatch(metadata["name"]):
            yield f"{kind} {metadata['name']}: not a name of RFC 1123"
        if kind != "Namespace" and not metadata.get("namespace"):
            yield f"{kind} {metadata['name']}: no namespace"
    for job in jobs(documents):
        # The name of an indexed pod ends with its index and five characters.
        last = job["spec"].get("completions", 1) - 1
        if len(f"{job['name']}-{last}-abcde") > 63:
            yield f"{job['name']}: the names of its pods are too long"


def _lifetime(job: Manifest, owner: Manifest) -> Iterator[str]:
    spec = job["spec"]
    if pod(job).get("restartPolicy") != "Never":
        yield "restartPolicy is not Never, which podFailurePolicy requires"
    # The limit includes the wait for a node, which may take days.
    if spec.get("activeDeadlineSeconds", 0) < 7 * 24 * 3600:
        yield "activeDeadlineSeconds is below a week"
    if owner.get("ttlSecondsAfterFinished", 0) <= 0:
        yield "no ttlSecondsAfterFinished"
    if spec.get("podReplacementPolicy") != "Failed":
        yield "podReplacementPolicy is not Failed: two pods could write"
    if not {"backoffLimit", "backoffLimitPerIndex"} & spec.keys():
        yield "no backoffLimit"
    annotations = spec["template"]["metadata"].get("annotations", {})
    is_spot = "cloud.google.com/gke-spot" in pod(job).get("nodeSelector", {})
    for name, value in (
        # Autopilot has no Spot node for a pod with this annotation.
        (
            "cluster-autoscaler.kubernetes.io/safe-to-evict",
            None if is_spot else "false",
        ),
        ("karpenter.sh/do-not-disrupt", "true"),
    ):
        if annotations.get(name) != value:
            yield f"an autoscaler may move the pod: {name} is not {value}"


def _failure_policy(spec: Manifest, *, is_jobset: bool) -> Iterator[str]:
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    permanent: dict[str, set[int]] = {}
    ignored: set[object] = set()
    for rule in rules:
        codes = rule.get("onExitCodes", {})
        values = set(codes.get("values", ()))
        if codes and codes.get("operator") != "In":
            yield "podFailurePolicy: the operator is not In"
        if rule["action"] in ("FailJob", "FailIndex"):
            name = codes.get("containerName", "any")
            permanent[name] = permanent.get(name, set()) | values
        if rule["action"] == "Ignore":
            ignored |= values
            ignored |= {
                condition["type"]
                for condition in rule.get("onPodConditions", [])
                if condition.get("status") == "True"
            }
    wanted = {"any": {errors.ConfigError.exit_code}, "train": PERMANENT}
    if permanent != wanted:
        yield f"podFailurePolicy: permanent are {permanent}, not {wanted}"
    if not is_jobset and "DisruptionTarget" not in ignored:
        yield "podFailurePolicy: DisruptionTarget is not ignored"
    several = spec.get("completionMode") == "Indexed" and (
        "backoffLimitPerIndex" not in spec
    )
    if several and not is_jobset and not {75, 76} <= ignored:
        yield "podFailurePolicy: 75 and 76 of a lost worker are not ignored"


def _security(job: Manifest) -> Iterator[str]:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards
    spec = pod(job)
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True:
        yield "restricted: runAsNonRoot is not true"
    if {"runAsUser", "runAsGroup"} & context.keys():
        yield "OpenShift refuses a fixed user or group"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "restricted: seccompProfile is not RuntimeDefault"
    if spec.get("automountServiceAccountToken") is not False:
        yield "the service account's token is mounted"
    if {"hostNetwork", "hostPID", "hostIPC"} & spec.keys():
        yield "restricted: a namespace of the host"
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
    for volume in spec.get("volumes", []):
        if not volume.keys() - {"name"} <= allowed:
            yield f"restricted: volume {volume['name']}"
    for container in containers(job):
        own, name = container.get("securityContext", {}), container["name"]
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"restricted: {name}: allowPrivilegeEscalation is not false"
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"restricted: {name}: not all capabilities are dropped"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem is not true"
        for entry in container.get("env", []):
            if re.search(r"EMULATOR|SECRET|TOKEN|PASSWORD|KEY", entry["name"]):
                yield f"{name}: {entry['name']} must not be in a manifest"


def _references(documents: list[Manifest], job: Manifest) -> Iterator[str]:
    """Yields names that refer to no object of the same namespace."""
    known = {
        (d["kind"], d["metadata"]["name"], d["metadata"].get("namespace"))
        for d in documents
    }
    owner = next(d for d in documents if d["kind"] in ("Job", "JobSet"))
    namespace = owner["metadata"].get("namespace")
    spec, wanted = pod(job), []
    volumes = {v["name"]: v for v in spec.get("volumes", [])}
    for volume in volumes.values():
        if "configMap" in volume:
            wanted.append(("ConfigMap", volume["configMap"]["name"]))
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            wanted.append(("PersistentVolumeClaim", claim))
            if "fsGroup" not in spec["securityContext"]:
                yield "no fsGroup: a new volume belongs to root"
    wanted.append(("ServiceAccount", spec.get("serviceAccountName")))
    if "subdomain" in spec:
        wanted.append(("Service", spec["subdomain"]))
    maps = _config_maps(documents)
    for container in containers(job):
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{container['name']}: no volume {mount['name']}"
        for entry in container.get("env", []):
            key = entry.get("valueFrom", {}).get("configMapKeyRef")
            if key:
                wanted.append(("ConfigMap", key["name"]))
                if key["key"] not in maps.get(key["name"], {}):
                    yield f"{entry['name']}: no key {key['key']}"
    for kind, name in wanted:
        if (kind, name, namespace) not in known:
            yield f"no {kind} {name} in {namespace}"


def _container(container: Manifest) -> Iterator[str]:
    name = container["name"]
    resources = container.get("resources", {})
    requests, limits = (resources.get(k, {}) for k in ("requests", "limits"))
    for key, text in (*requests.items(), *limits.items()):
        if quantity(text) is None:
            yield f"{name}: {key}: {text} is not a quantity"
    for key in {"cpu", "memory"} - requests.keys():
        yield f"{name}: no request of {key}"
    if "memory" not in limits:
        yield f"{name}: no limit of memory"
    for key in requests.keys() & limits.keys():
        if (quantity(requests[key]) or 0) > (quantity(limits[key]) or 0):
            yield f"{name}: the request of {key} is above the limit"
    last = container["image"].rpartition("/")[2]
    tag = last.partition("@")[0].partition(":")[2]
    if "@sha256:" not in last and (not tag or "latest" in tag):
        yield f"{name}: image {container['image']} is not pinned"
    if "/tmp" not in {m["mountPath"] for m in container["volumeMounts"]}:
        yield f"{name}: /tmp is not writable"


def _gpus(documents: list[Manifest], job: Manifest) -> Iterator[str]:
    container = containers(job)[0]
    requests, limits = (
        container["resources"][k] for k in ("requests", "limits")
    )
    count = limits.get(_GPU)
    required = environment(documents, job, container).get("JOB_REQUIRE_GPUS")
    request = requests.get(_GPU)
    if not request == required == count:
        yield f"GPUs: {request} requested, {required} required, limit {count}"
    if container["image"].partition("@")[0].endswith("-gpu") != bool(count):
        yield "GPUs: the image is not the one for these limits"
    if not count:
        return
    if not any(t.get("key") == _GPU for t in pod(job).get("tolerations", [])):
        yield "GPUs: no toleration of their nodes' taint"
    shm = [
        v["emptyDir"]
        for v in pod(job)["volumes"]
        if v.get("emptyDir", {}).get("medium") == "Memory"
    ]
    if not shm or "/dev/shm" not in {
        m["mountPath"] for m in container["volumeMounts"]
    }:
        yield "GPUs: no /dev/shm, which NCCL needs"
    used = sum(quantity(v["sizeLimit"]) or 0 for v in shm)
    if (quantity(limits["memory"]) or 0) < used + _GPU_JOB_BYTES:
        yield "GPUs: /dev/shm counts towards the memory limit, which is too low"


def _flags(documents: list[Manifest], job: Manifest) -> Iterator[str]:
    container, *others = containers(job)
    given = arguments(documents, job, container)
    values = dict(a.removeprefix("--").split("=", 1) for a in given if "=" in a)
    for argument in given:
        if "$(" in argument:
            yield f"{argument}: the variable is not set"
    grace = pod(job).get("terminationGracePeriodSeconds", 30)
    if float(values.get("grace_seconds", 0)) != grace:
        yield f"the pod's grace period is {grace} s, not --grace_seconds"
    workdir = values.get("workdir", "")
    run = environment(documents, job, container).get("RUN", "")
    if not run or not workdir.endswith(f"/runs/{run}"):
        yield f"--workdir={workdir} does not end with the run's name {run}"
    mounts = [m["mountPath"] for m in container["volumeMounts"]]
    data = values.get("config.data.dir", "")
    for path in filter(None, (workdir, data)):
        if not path.startswith(("gs://", *(f"{m}/" for m in mounts))):
            yield f"{path} is on no volume"
    config = values.get("config", "")
    is_synthetic = config in ("configs/quickstart.py", "configs/smoke.py")
    if not is_synthetic and not data.startswith("gs://"):
        fetching = [arguments(documents, job, one) for one in others]
        if not any("--mode=fetch" in arguments for arguments in fetching):
            yield f"no container fetches the images of {config}"
    probe = (
        container.get("livenessProbe", {}).get("exec", {}).get("command", [])
    )
    heartbeat = values.get("heartbeat_file", "")
    if not heartbeat or f"test ! -e {heartbeat} ||" not in " ".join(probe):
        yield f"livenessProbe does not check --heartbeat_file={heartbeat}"


def _network(documents: list[Manifest], job: Manifest) -> Iterator[str]:
    labels = job["labels"].items()
    [policy] = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    [rule] = policy["ingress"]
    [source] = rule["from"]
    for selector in (policy["podSelector"], source["podSelector"]):
        if not selector["matchLabels"].items() <= labels:
            yield "the NetworkPolicy does not select the pods"
    service = find(documents, "Service")["spec"]
    if service.get("clusterIP") != "None":
        yield "the Service is not headless"
    if service.get("publishNotReadyAddresses") is not True:
        yield "Service: publishNotReadyAddresses is not true"
    if not service["selector"].items() <= labels:
        yield "the Service does not select the pods"


def _workers(documents: list[Manifest]) -> Iterator[str]:
    """Yields disagreements between the pods of a run on several nodes."""
    found = {}
    for job in jobs(documents):
        spec, container = job["spec"], containers(job)[0]
        given = environment(documents, job, container)
        several = "--config.distribute.strategy=multi_worker" in arguments(
            documents, job, container
        )
        if several != ("JOB_WORKERS" in given):
            yield "workers: JOB_WORKERS and the flag do not agree"
        if not several or "JOB_WORKERS" not in given:
            return
        if spec.get("completionMode") != "Indexed":
            yield "workers: completionMode is not Indexed"
        if spec.get("completions") != spec.get("parallelism"):
            yield "workers: completions is not parallelism"
        if "backoffLimitPerIndex" in spec:
            yield "workers: backoffLimitPerIndex restarts one worker alone"
        if "JOB_COMPLETION_INDEX" in given:
            yield "workers: JOB_COMPLETION_INDEX is set by Kubernetes"
        for index in range(spec.get("completions", 1)):
            try:
                one = cluster.from_environment(
                    {**given, "JOB_COMPLETION_INDEX": str(index)}
                )
            except errors.ConfigError as error:
                yield f"workers: {error}"
                return
            # kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication
            host = f"{job['name']}-{index}.{pod(job).get('subdomain')}"
            found[one.index] = (host, one.workers)
        ports = {p["containerPort"] for p in container.get("ports", [])}
        ports |= {
            p["port"] for p in find(documents, "Service")["spec"]["ports"]
        }
        if ports != {int(one.workers[0].rpartition(":")[2])}:
            yield f"workers: they listen at another port than {ports}"
    [one, *_] = found.values()
    if sorted(found) != [*range(len(one[1]))]:
        yield f"workers: {sorted(found)} of {len(one[1])} workers have a pod"
    for index, (host, workers) in found.items():
        if index < len(workers) and workers[index].rpartition(":")[0] != host:
            yield f"workers: {workers[index]} is not {host}"
    chief = {"rules": [{"succeededIndexes": "0"}]}
    for job in documents:
        if job["kind"] == "Job" and job["spec"].get("successPolicy") != chief:
            yield "workers: successPolicy is not the success of worker 0"


def _jobset(jobset: Manifest) -> Iterator[str]:
    # https://github.com/kubernetes-sigs/jobset, api/jobset/v1alpha2
    spec = jobset["spec"]
    names = [one["name"] for one in spec["replicatedJobs"]]
    for one in spec["replicatedJobs"]:
        if one.get("replicas", 1) != 1:
            yield f"JobSet: several Jobs {one['name']}"
        if one["template"]["spec"].get("backoffLimit") != 0:
            yield "JobSet: backoffLimit is not 0, so one pod restarts alone"
    if spec.get("network", {}).get("enableDNSHostnames") is not False:
        yield "JobSet: creates a second Service"
    if spec.get("successPolicy") != {
        "operator": "All",
        "targetReplicatedJobs": names[:1],
    }:
        yield "JobSet: successPolicy is not the success of the chief"
    policy = spec.get("failurePolicy", {})
    if policy.get("maxRestarts", 0) < 10:
        yield "JobSet: maxRestarts is below the job's own limit"
    permanent = {
        reason
        for rule in policy.get("rules", [])
        if rule["action"] == "FailJobSet"
        for reason in rule["onJobFailureReasons"]
    }
    if permanent != {"PodFailurePolicy", "DeadlineExceeded"}:
        yield f"JobSet: permanent are {sorted(permanent)}"


def _expand(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), text)


def _config_maps(documents: list[Manifest]) -> dict[str, dict[str, str]]:
    return {
        d["metadata"]["name"]: d["data"]
        for d in documents
        if d["kind"] == "ConfigMap"
    }


def _files(
    documents: list[Manifest], job: Manifest, container: Manifest
) -> dict[str, str]:
    """Returns the content of ConfigMap files, by their path in a container."""
    maps = _config_maps(documents)
    volumes = {v["name"]: v for v in pod(job).get("volumes", [])}
    files = {}
    for mount in container.get("volumeMounts", []):
        source = volumes.get(mount["name"], {}).get("configMap", {})
        for name, text in maps.get(source.get("name"), {}).items():
            files[f"{mount['mountPath']}/{name}"] = text
    return files
