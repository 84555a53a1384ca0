"""What is wrong with a set of Kubernetes manifests, beyond their schemas.

Schemas know fields and types. That a policy names a container that exists, that
an exit code is one of the job's, that a flag and the pod agree on a number of
seconds, or that a path can be written to, they do not.
"""

import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

from job import errors
from job.distribute import environment as cluster
from tests.support.jobs import ROOT, job_command

Manifest = dict[str, Any]

# A restart does not fix these; the others may pass on another node.
FOR_GOOD = {
    kind.exit_code
    for kind in (
        errors.ConfigError,
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

# A pod's host name is the Job's, a dash and its index, in 63 characters.
_JOB_NAME = re.compile(r"[a-z]([-a-z0-9]{0,57}[a-z0-9])?")
_GPU = "nvidia.com/gpu"
# Of TensorFlow with CUDA, and the images, on the host.
_GPU_JOB_BYTES = 6 * 2**30


def quantity(text: object) -> float | None:
    """Returns a quantity's number; None where it is none."""
    match = _QUANTITY.fullmatch(str(text))
    return float(match[1]) * _UNITS[match[2]] if match else None


def find(documents: list[Manifest], kind: str) -> Manifest:
    """Returns the only document of a kind; a JobSet's Job, too."""
    found = [d for d in documents if d["kind"] == kind]
    if kind == "Job" and not found:
        found = [_job_of(find(documents, "JobSet"))]
    [one] = found
    return one


def _job_of(jobset: Manifest) -> Manifest:
    """Returns the only Job that a JobSet makes."""
    metadata = jobset["metadata"]
    [one] = jobset["spec"]["replicatedJobs"]
    return {
        "kind": "Job",
        "metadata": {
            **metadata,
            "name": f"{metadata['name']}-{one['name']}-0",
        },
        # Its lifetime is the JobSet's.
        "spec": one["template"]["spec"],
    }


def container(documents: list[Manifest]) -> Manifest:
    """Returns the only container beside those that initialize: it trains."""
    spec = find(documents, "Job")["spec"]["template"]["spec"]
    [found] = spec["containers"]
    return found


def fetcher(documents: list[Manifest]) -> Manifest | None:
    """Returns the container that fetches the images, if there is one."""
    spec = find(documents, "Job")["spec"]["template"]["spec"]
    return next(iter(spec.get("initContainers", [])), None)


def arguments(
    documents: list[Manifest], one: Manifest | None = None
) -> list[str]:
    """Returns the job's arguments as a container will see them.

    What a flag file holds stands in its place, without comments.

    Args:
      documents: Documents of one overlay.
      one: the container; None for the one that trains.
    """
    one = one or container(documents)
    values = _environment(documents, one)
    files = _files(documents, one)
    result = []
    for argument in one.get("args", []):
        text = re.sub(
            r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), argument
        )
        name = text.removeprefix("--flagfile=")
        if name == text:
            result.append(text)
        else:
            lines = files.get(name, f"--no_such_file={name}").splitlines()
            result += [ln for ln in lines if ln and not ln.startswith("#")]
    return result


def _environment(documents: list[Manifest], one: Manifest) -> dict[str, str]:
    """Returns a container's variables, as its process will see them."""
    job = find(documents, "Job")
    # The Job's controller adds this one.
    labels = {
        **job["spec"]["template"]["metadata"]["labels"],
        "batch.kubernetes.io/job-name": job["metadata"]["name"],
    }
    values: dict[str, str] = {}
    for entry in one.get("env", []):
        field = entry.get("valueFrom", {}).get("fieldRef", {})
        label = re.fullmatch(
            r"metadata\.labels\['(.*)'\]", field.get("fieldPath", "")
        )
        found = labels.get(label[1]) if label else entry.get("value")
        if found is not None:
            # Only what stands before it is known.
            values[entry["name"]] = re.sub(
                r"\$\((\w+)\)", lambda m: values.get(m[1], m[0]), found
            )
    return values


def flag(documents: list[Manifest], name: str) -> str | None:
    """Returns a flag's value; None where it is not given."""
    given = [
        a.partition("=")[2]
        for a in arguments(documents)
        if a.partition("=")[0] == f"--{name}"
    ]
    return given[-1] if given else None


def refused_by_the_parser(documents: list[Manifest]) -> str:
    """Returns what the job says to these arguments; "" where it takes them."""
    if flag(documents, "config") is None:
        config = ["--config=configs/smoke.py"]
    else:
        config = []
    said = []
    for one in filter(None, (container(documents), fetcher(documents))):
        ended = subprocess.run(
            job_command(*config, *arguments(documents, one), "--mode=config"),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if ended.returncode:
            said.append(ended.stderr.strip())
    return "\n".join(said)


def problems(documents: list[Manifest]) -> list[str]:
    """Returns what is wrong, a line each; of one Job and what belongs to it."""
    job = find(documents, "Job")
    spec = job["spec"]
    pod = spec["template"]["spec"]
    jobset = next((d for d in documents if d["kind"] == "JobSet"), None)
    return [
        *_names(documents),
        *_lifetime(jobset["spec"] | spec if jobset else spec, pod),
        *_failure_policy(spec, pod, restarts=jobset is None),
        *(_jobset(jobset) if jobset else ()),
        *_security(pod),
        *_references(documents, pod),
        *(
            line
            for one in (*pod["containers"], *pod.get("initContainers", []))
            for line in (*_resources(one), *_image(one), *_writable(one))
        ),
        *_gpus(documents, pod),
        *_flags(documents, pod),
        *_probes(documents),
        *_network(documents, spec["template"]),
        *_workers(documents, spec),
    ]


def _names(documents: list[Manifest]) -> Iterator[str]:
    for document in documents:
        metadata = document["metadata"]
        name = metadata["name"]
        wanted = _JOB_NAME if document["kind"] == "Job" else _NAME
        if not wanted.fullmatch(name):
            yield f"{document['kind']} {name}: no name of RFC 1123, or too long"
        if document["kind"] != "Namespace" and not metadata.get("namespace"):
            yield f"{document['kind']} {name}: in no namespace"


def _lifetime(spec: Manifest, pod: Manifest) -> Iterator[str]:
    if pod.get("restartPolicy") != "Never":
        yield "restartPolicy is not Never, which podFailurePolicy asks for"
    for field in ("activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if spec.get(field, 0) <= 0:
            yield f"no {field}"
    if spec.get("podReplacementPolicy") != "Failed":
        yield "podReplacementPolicy is not Failed: two pods could write"
    indexed = spec.get("completionMode") == "Indexed"
    if "backoffLimitPerIndex" in spec and not indexed:
        yield "backoffLimitPerIndex without completionMode Indexed"
    if not {"backoffLimit", "backoffLimitPerIndex"} & spec.keys():
        yield "no backoffLimit"
    if spec.get("completions", 1) > 1 and not indexed:
        yield "several completions and no Indexed: they would do the same"


def _failure_policy(
    spec: Manifest, pod: Manifest, *, restarts: bool
) -> Iterator[str]:
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    names = [c["name"] for c in pod["containers"]]
    for_good: set[int] = set()
    ignored = False
    for rule in rules:
        action = rule["action"]
        if action not in ("FailJob", "FailIndex", "Ignore", "Count"):
            yield f"podFailurePolicy: no action {action}"
        if action == "FailIndex" and "backoffLimitPerIndex" not in spec:
            yield "podFailurePolicy: FailIndex without backoffLimitPerIndex"
        codes = rule.get("onExitCodes")
        if codes:
            if codes["operator"] not in ("In", "NotIn"):
                yield f"podFailurePolicy: no operator {codes['operator']}"
            if codes.get("containerName", names[0]) not in names:
                yield f"podFailurePolicy: no container {codes['containerName']}"
            if action in ("FailJob", "FailIndex"):
                for_good |= set(codes["values"])
        for condition in rule.get("onPodConditions", []):
            if (action, condition["type"], condition.get("status")) == (
                *("Ignore", "DisruptionTarget"),
                "True",
            ):
                ignored = True
    if for_good != FOR_GOOD:
        yield (
            f"podFailurePolicy: fails for good on {sorted(for_good)}, the job"
            f" means {sorted(FOR_GOOD)}"
        )
    if not ignored and restarts:
        yield "podFailurePolicy: DisruptionTarget is not ignored"


def _security(pod: Manifest) -> Iterator[str]:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True:
        yield "restricted: runAsNonRoot is not true"
    if not context.get("runAsUser"):
        yield "restricted: runAsUser is not a number above 0"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "restricted: seccompProfile is not RuntimeDefault"
    if "fsGroup" not in context:
        yield "no fsGroup: a claim would belong to root"
    if pod.get("automountServiceAccountToken") is not False:
        yield "the service account's token is mounted"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"restricted: {field}"
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim"}
    for volume in pod.get("volumes", []):
        if not volume.keys() - {"name"} <= allowed:
            yield f"restricted: volume {volume['name']}"
    for one in (*pod["containers"], *pod.get("initContainers", [])):
        own = one.get("securityContext", {})
        name = one["name"]
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"restricted: {name}: allowPrivilegeEscalation is not false"
        if own.get("capabilities", {}).get("drop") != ["ALL"]:
            yield f"restricted: {name}: not all capabilities are dropped"
        if own.get("readOnlyRootFilesystem") is not True:
            yield f"{name}: readOnlyRootFilesystem is not true"
        for entry in one.get("env", []):
            if re.search(r"EMULATOR|SECRET|TOKEN|PASSWORD|KEY", entry["name"]):
                yield f"{name}: {entry['name']} belongs in no manifest"


def _references(documents: list[Manifest], pod: Manifest) -> Iterator[str]:
    there = {(d["kind"], d["metadata"]["name"]) for d in documents}
    volumes = {v["name"]: v for v in pod.get("volumes", [])}
    for one in (*pod["containers"], *pod.get("initContainers", [])):
        for mount in one.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{one['name']}: mounts {mount['name']}, no such volume"
    for volume in volumes.values():
        if "configMap" in volume:
            name = volume["configMap"]["name"]
            if ("ConfigMap", name) not in there:
                yield f"volume {volume['name']}: no ConfigMap {name}"
    account = pod.get("serviceAccountName")
    if account and ("ServiceAccount", account) not in there:
        yield f"no ServiceAccount {account}"


def _resources(one: Manifest) -> Iterator[str]:
    name = one["name"]
    resources = one.get("resources", {})
    requests, limits = (
        resources.get("requests", {}),
        resources.get("limits", {}),
    )
    for what in (requests, limits):
        for key, text in what.items():
            if quantity(text) is None:
                yield f"{name}: {key}: {text} is not a quantity"
    for key in ("cpu", "memory"):
        if key not in requests:
            yield f"{name}: no request of {key}"
    if "memory" not in limits:
        yield f"{name}: no limit of memory"
    for key in requests.keys() & limits.keys():
        low, high = quantity(requests[key]), quantity(limits[key])
        if low and high and low > high:
            yield f"{name}: {key}: the request is above the limit"


def _image(one: Manifest) -> Iterator[str]:
    last = one["image"].rpartition("/")[2]
    tag = last.partition("@")[0].partition(":")[2]
    if "@sha256:" not in last and (not tag or "latest" in tag):
        yield f"{one['name']}: image {one['image']} is not pinned"


def _writable(one: Manifest) -> Iterator[str]:
    mounts = {m["mountPath"] for m in one.get("volumeMounts", [])}
    if "/tmp" not in mounts:
        yield f"{one['name']}: /tmp, HOME and caches cannot be written to"


def _gpus(documents: list[Manifest], pod: Manifest) -> Iterator[str]:
    one = container(documents)
    resources = one.get("resources", {})
    requests, limits = (
        resources.get("requests", {}),
        resources.get("limits", {}),
    )
    count = limits.get(_GPU)
    environment = {e["name"]: e.get("value") for e in one.get("env", [])}
    of_image = one["image"].partition("@")[0].endswith("-gpu")
    if requests.get(_GPU) != count:
        yield "GPUs: the request is not the limit"
    if environment.get("JOB_REQUIRE_GPUS") != count:
        yield "GPUs: JOB_REQUIRE_GPUS is not the limit"
    if of_image != bool(count):
        yield "GPUs: the image and the limits do not go together"
    if not count:
        return
    if not any(t.get("key") == _GPU for t in pod.get("tolerations", [])):
        yield "GPUs: no toleration of their nodes' taint"
    shm = [
        v["emptyDir"]
        for v in pod["volumes"]
        if v.get("emptyDir", {}).get("medium") == "Memory"
    ]
    paths = {m["mountPath"] for m in one["volumeMounts"]}
    if not shm or "/dev/shm" not in paths:
        yield "GPUs: no /dev/shm of its own, which NCCL needs"
    used = sum(quantity(v["sizeLimit"]) or 0 for v in shm)
    if (quantity(limits["memory"]) or 0) < used + _GPU_JOB_BYTES:
        yield "GPUs: /dev/shm counts in the memory limit, which is too low"


def _flags(documents: list[Manifest], pod: Manifest) -> Iterator[str]:
    given = arguments(documents)
    for argument in given:
        if "$(" in argument:
            yield f"{argument}: no such variable"
    grace = flag(documents, "grace_seconds")
    seconds = pod.get("terminationGracePeriodSeconds")
    if grace is None or float(grace) != seconds:
        yield f"the pod's grace is {seconds} s, --grace_seconds={grace}"
    labels = find(documents, "Job")["spec"]["template"]["metadata"]["labels"]
    workdir = flag(documents, "workdir") or ""
    if pathlib.PurePath(workdir).name != labels.get("run"):
        yield f"--workdir={workdir} does not end with the run's name"
    mounts = [m["mountPath"] for m in container(documents)["volumeMounts"]]
    data = flag(documents, "config.data.dir")
    for path in (workdir, data):
        if path and not path.startswith(("gs://", *(f"{m}/" for m in mounts))):
            yield f"{path} is on no volume"
    config = flag(documents, "config")
    synthetic = config in (None, "configs/quickstart.py", "configs/smoke.py")
    if not synthetic and not (data or "").startswith("gs://"):
        one = fetcher(documents)
        if not one or "--mode=fetch" not in arguments(documents, one):
            yield f"nobody fetches the images of {config}"


def _probes(documents: list[Manifest]) -> Iterator[str]:
    one = container(documents)
    if flag(documents, "mode") == "report":
        return
    heartbeat = flag(documents, "heartbeat_file")
    for probe in ("startupProbe", "livenessProbe"):
        command = " ".join(
            one.get(probe, {}).get("exec", {}).get("command", [])
        )
        if not heartbeat or heartbeat not in command:
            yield f"{probe} does not look at --heartbeat_file={heartbeat}"


def _network(documents: list[Manifest], template: Manifest) -> Iterator[str]:
    labels = template["metadata"]["labels"]
    for document in documents:
        if document["kind"] == "NetworkPolicy":
            wanted = document["spec"]["podSelector"]["matchLabels"]
            if not wanted.items() <= labels.items():
                yield "the NetworkPolicy does not select the pods"


def _workers(documents: list[Manifest], spec: Manifest) -> Iterator[str]:
    template, one = spec["template"], container(documents)
    names = [entry["name"] for entry in one.get("env", [])]
    several = flag(documents, "config.distribute.strategy") == "multi_worker"
    if several != ("JOB_WORKERS" in names):
        yield "workers: JOB_WORKERS and the flag do not go together"
    if not several or "JOB_WORKERS" not in names:
        return
    environment = _environment(documents, one)
    count = int(environment["JOB_WORKERS"])
    if spec.get("completionMode") != "Indexed":
        yield "workers: completionMode is not Indexed: no pod has a number"
    if not spec.get("completions") == spec.get("parallelism") == count:
        yield "workers: completions and parallelism are not JOB_WORKERS"
    if "backoffLimitPerIndex" in spec:
        yield "workers: backoffLimitPerIndex would leave the others waiting"
    jobset = any(d["kind"] == "JobSet" for d in documents)
    if not jobset and not {75, 76} <= _ignored_codes(spec):
        yield "workers: 75 and 76 of a pod whose peer has gone cost a start"
    if spec.get("successPolicy") != {"rules": [{"succeededIndexes": "0"}]}:
        yield "workers: successPolicy is not worker 0, who writes the result"
    if "JOB_COMPLETION_INDEX" in names:
        yield "workers: JOB_COMPLETION_INDEX is Kubernetes' to set"
    job = find(documents, "Job")["metadata"]["name"]
    subdomain = template["spec"].get("subdomain")
    for index in range(count):
        try:
            found = cluster.from_environment(
                {**environment, "JOB_COMPLETION_INDEX": str(index)}
            )
        except errors.ConfigError as error:
            yield f"workers: {error}"
            return
        host, _, port = found.workers[index].rpartition(":")
        # https://kubernetes.io/docs/tasks/job/job-with-pod-to-pod-communication
        if host != f"{job}-{index}.{subdomain}":
            yield f"workers: {host} is not {job}-{index}.{subdomain}"
    services = [d for d in documents if d["kind"] == "Service"]
    labels = template["metadata"]["labels"].items()
    ports = {int(port)}
    if {p["containerPort"] for p in one.get("ports", [])} != ports:
        yield f"workers: the container's port is not {port}"
    if [s["metadata"]["name"] for s in services] != [subdomain]:
        yield f"workers: no Service {subdomain}, so the pods have no names"
    for service in services:
        fields = service["spec"]
        if fields.get("clusterIP") != "None":
            yield "workers: the Service is not headless"
        if fields.get("publishNotReadyAddresses") is not True:
            yield "workers: publishNotReadyAddresses is not true"
        if not fields["selector"].items() <= labels:
            yield "workers: the Service does not select the pods"
        if {p["port"] for p in fields["ports"]} != ports:
            yield f"workers: the Service's port is not {port}"
    if not any(
        source.get("podSelector", {"matchLabels": {"": ""}})[
            "matchLabels"
        ].items()
        <= labels
        for d in documents
        if d["kind"] == "NetworkPolicy"
        for rule in d["spec"].get("ingress", [])
        for source in rule.get("from", [])
    ):
        yield "workers: no NetworkPolicy lets them reach each other"


def _jobset(jobset: Manifest) -> Iterator[str]:
    # https://github.com/kubernetes-sigs/jobset, api/jobset/v1alpha2: its types
    # and what they say of values.
    spec = jobset["spec"]
    if jobset["apiVersion"] != "jobset.x-k8s.io/v1alpha2":
        yield f"JobSet: {jobset['apiVersion']} is not a version of it"
    known = {
        *("failurePolicy", "network", "replicatedJobs", "successPolicy"),
        *("suspend", "ttlSecondsAfterFinished"),
    }
    for field in spec.keys() - known:
        yield f"JobSet: no field {field}"
    [one] = spec["replicatedJobs"]
    for field in one.keys() - {"name", "replicas", "template"}:
        yield f"JobSet: no field {field} of a replicatedJob"
    if one.get("replicas", 1) != 1:
        yield "JobSet: several Jobs, where one has all workers"
    job = one["template"]["spec"]
    # Its webhook wants room for the pod's own letters, too.
    last = job["completions"] - 1
    name = f"{jobset['metadata']['name']}-{one['name']}-0-{last}-abcde"
    if len(name) > 63:
        yield f"JobSet: pods such as {name} have too long a name"
    if job.get("backoffLimit") != 0:
        yield "JobSet: backoffLimit is not 0, so a pod comes back alone"
    actions = [r["action"] for r in job["podFailurePolicy"]["rules"]]
    if actions != ["FailJob"]:
        yield f"JobSet: a pod's end is {actions}, not all pods' end"
    if spec.get("network", {}).get("enableDNSHostnames") is not False:
        yield "JobSet: makes a Service of its own, beside ours"
    if spec.get("successPolicy", {}).get("targetReplicatedJobs") != [
        one["name"]
    ]:
        yield "JobSet: successPolicy is of no Job that there is"
    policy = spec.get("failurePolicy", {})
    if policy.get("maxRestarts", 0) < 10:
        yield "JobSet: fewer maxRestarts than the job's own ten"
    for_good = set()
    for rule in policy.get("rules", []):
        if rule["action"] not in (
            *("FailJobSet", "RestartJobSet"),
            "RestartJobSetAndIgnoreMaxRestarts",
        ):
            yield f"JobSet: no action {rule['action']}"
        if not re.fullmatch(
            r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]
        ):
            yield f"JobSet: {rule['name']} is not the name of a rule"
        if rule["action"] == "FailJobSet":
            for_good |= set(rule["onJobFailureReasons"])
    if for_good != {"PodFailurePolicy", "DeadlineExceeded"}:
        yield f"JobSet: fails for good on {sorted(for_good)}"


def _ignored_codes(spec: Manifest) -> set[int]:
    return {
        code
        for rule in spec.get("podFailurePolicy", {}).get("rules", [])
        if rule["action"] == "Ignore"
        and rule.get("onExitCodes", {}).get("operator") == "In"
        for code in rule["onExitCodes"]["values"]
    }


def _files(documents: list[Manifest], one: Manifest) -> dict[str, str]:
    """Returns what the ConfigMaps' files hold, by their path in a container."""
    pod = find(documents, "Job")["spec"]["template"]["spec"]
    maps = {
        d["metadata"]["name"]: d["data"]
        for d in documents
        if d["kind"] == "ConfigMap"
    }
    volumes = {v["name"]: v for v in pod.get("volumes", [])}
    files = {}
    for mount in one.get("volumeMounts", []):
        source = volumes.get(mount["name"], {}).get("configMap")
        for name, text in maps.get((source or {}).get("name"), {}).items():
            files[f"{mount['mountPath']}/{name}"] = text
    return files
