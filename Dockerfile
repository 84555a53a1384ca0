# Images of the job: `make image`, or
#
#     docker build --target cpu -t vgg16-cifar10:0.1.0-cpu .
#     docker build --target gpu -t vgg16-cifar10:0.1.0-gpu .
#
# A release names the base by its digest:
# --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:...
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

# The environment is copied as a whole: pip, its caches and the wheels stay
# behind.
FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv
COPY requirements/install .

FROM packages AS packages-cpu
COPY requirements/cpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip sh ./install cpu.txt

# CUDA, cuDNN and NCCL come as wheels: a CUDA base image would hold them twice.
FROM packages AS packages-gpu
COPY requirements/gpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip sh ./install gpu.txt

FROM packages AS code
COPY LICENSE /app/
COPY configs /app/configs
COPY job /app/job
# A checkout may have been made under any umask, and the user may be any.
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /app \
    && chmod -R u=rwX,go=rX /app

FROM ${PYTHON_IMAGE} AS runtime
# The group is root's, because some clusters choose the user but not the group.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /tmp job \
    && install -d -o 10001 -g 0 -m 0775 \
      /storage /storage/data /storage/runs /storage/.cache
# The job writes only to /tmp and /storage.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    TMPDIR=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    MPLCONFIGDIR=/tmp/.cache/matplotlib \
    TFDS_DATA_DIR=/storage/data \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    TF_FORCE_GPU_ALLOW_GROWTH=true
WORKDIR /app
# The job is process 1 and handles SIGTERM itself: no shell in between.
ENTRYPOINT ["python", "-m", "job.main"]
CMD ["--config=configs/quickstart.py", "--workdir=/storage/runs/quickstart"]

FROM runtime AS gpu
# JOB_REQUIRE_GPUS: without a driver or the container toolkit the job exits with
# 69 instead of training on the CPU for days. -e JOB_REQUIRE_GPUS=0 allows that.
#
# LD_LIBRARY_PATH, PATH: GKE mounts the driver there and sets no variable. Other
# platforms do not need them, and they do no harm.
#
# NVIDIA_REQUIRE_CUDA: compute capability 9.0 (H100) and newer need a driver with
# CUDA 12.5 (R555), because TensorFlow has some kernels only as PTX 8.5. Older
# GPUs need CUDA 12.0 (R525). A space is "or", a comma is "and".
#
# CUDA_CACHE_PATH: the driver compiles that PTX once and keeps the result.
ENV PATH=$PATH:/usr/local/nvidia/bin \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_REQUIRE_CUDA="cuda>=12.5 arch<9.0,cuda>=12.0" \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CUDA_CACHE_PATH=/storage/.cache/cuda \
    JOB_REQUIRE_GPUS=1
# 2.8 GB to pull that change only with NVIDIA's packages.
COPY --from=packages-gpu /opt/nvidia /opt/nvidia
COPY --from=packages-gpu /opt/venv /opt/venv
COPY --from=code /app /app
USER 10001:0
ARG PYTHON_IMAGE
ARG REVISION=unknown
ARG VERSION=0.1.0
ARG CREATED=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="VGG16 on CIFAR-10, for NVIDIA GPUs" \
      org.opencontainers.image.description="Training job; docs/deployment.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.url="${SOURCE}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=code /app /app
USER 10001:0
ARG PYTHON_IMAGE
ARG REVISION=unknown
ARG VERSION=0.1.0
ARG CREATED=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="VGG16 on CIFAR-10, for CPUs" \
      org.opencontainers.image.description="Training job; docs/deployment.md" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.url="${SOURCE}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}"
