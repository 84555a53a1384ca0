# Functions of the scripts in this folder, which source it. They run against the
# cluster of the current kubectl context, such as kind:
#
#     kind create cluster
#     make image SET=cpu
#     kind load docker-image vgg16-cifar10:0.1.0-cpu
#     k8s/test/local
#
# IMAGE is the image, and KUBECTL the client. Each script deletes its run at the
# end.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
KUBECTL=${KUBECTL:-kubectl}
IMAGE=${IMAGE:-vgg16-cifar10:0.1.0-cpu}
NAMESPACE=vgg16-cifar10
run=$(basename "$0")

kube() { $KUBECTL --namespace="$NAMESPACE" "$@"; }

fail() { # MESSAGE: prints it with the pods and events of the run
  echo "FAILED: $run: $1" >&2
  kube get pods -o wide >&2 || true
  kube get events --sort-by=.lastTimestamp | tail -20 >&2 || true
  exit 1
}

# A run that is long enough for an interruption and short enough for two cores.
LONG="--config.steps=1500 --config.checkpoint.every_steps=20 --config.log_every_steps=5"

start() { # MAKE_ARGUMENTS...: sets kind, name and selector
  $KUBECTL apply -k k8s/setup
  $KUBECTL apply -k k8s/setup/volume
  trap 'make --silent k8s-delete NAME="$run" KUBECTL="$KUBECTL" || true' EXIT
  make --silent k8s-run NAME="$run" IMAGE="$IMAGE" KUBECTL="$KUBECTL" "$@"
  read -r kind name < <($KUBECTL get -k "k8s/runs/$run" -o \
    'jsonpath={range .items[*]}{.kind} {.metadata.name}{"\n"}{end}' | grep ^Job)
  selector=batch.kubernetes.io/job-name=$name
  [ "$kind" = Job ] || selector=jobset.sigs.k8s.io/jobset-name=$name
}

within() { # SECONDS DESCRIPTION COMMAND...: repeats until it succeeds
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ $SECONDS -lt $end ] || fail "$what did not happen in time"
    sleep 2
  done
  echo "$run: $what"
}

has_condition() { # TYPE
  [ "$(kube get "$kind/$name" -o \
    "jsonpath={.status.conditions[?(@.type==\"$1\")].status}")" = True ]
}

pods() { kube get pods -l "$selector" --sort-by=.metadata.creationTimestamp -o name "$@"; }

log_has() { # PATTERN: in the log of any pod of the run
  local pod
  for pod in $(pods); do
    # grep -q would end the pipe early, which fails under pipefail.
    kube logs "$pod" -c train 2> /dev/null | grep -E "$1" > /dev/null && return 0
  done
  return 1
}
