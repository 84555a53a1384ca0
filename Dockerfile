# The job as an image: `make image`, or
#
#     docker build --target cpu -t vgg16-cifar10:cpu .
#     docker build --target gpu -t vgg16-cifar10:gpu .
#
# For a release, name the base by its digest:
# --build-arg PYTHON_IMAGE=python:3.12-slim@sha256:...
ARG PYTHON_IMAGE=docker.io/library/python:3.12-slim

# The packages, in an environment that is copied whole: pip's caches and the
# wheels stay behind. Without pip, which nothing needs in there.
FROM ${PYTHON_IMAGE} AS packages
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv
ENV PIP_DISABLE_PIP_VERSION_CHECK=1

# Only promise, which tensorflow-datasets needs, has no wheel.
FROM packages AS packages-cpu
COPY requirements/cpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/venv/bin/python install --quiet --no-deps \
      --require-hashes --only-binary :all: --no-binary promise \
      -r cpu.txt
# Headers and a compiler's library: 350 MB that only builds need.
RUN rm -rf /opt/venv/lib/python3*/site-packages/tensorflow/include \
      /opt/venv/lib/python3*/site-packages/clang

# CUDA, cuDNN and NCCL come as wheels: a CUDA base image would hold them twice.
FROM packages AS packages-gpu
COPY requirements/gpu.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip --python /opt/venv/bin/python install --quiet --no-deps \
      --require-hashes --only-binary :all: --no-binary promise \
      -r gpu.txt
RUN rm -rf /opt/venv/lib/python3*/site-packages/tensorflow/include \
      /opt/venv/lib/python3*/site-packages/clang

# A read-only root cannot keep bytecode, so it is made here.
FROM packages AS code
COPY LICENSE /app/
COPY configs /app/configs
COPY job /app/job
RUN python3 -m compileall -q /app

# What both images have in common.
FROM ${PYTHON_IMAGE} AS runtime
# The group is root's, as clusters that choose a user's id themselves have it.
RUN useradd --uid 10001 --gid 0 --no-create-home --home-dir /tmp job \
    && install -d -o 10001 -g 0 -m 0775 /storage /storage/data /storage/runs
# Only /tmp and /storage are ever written to.
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
# The job is process 1 and answers SIGTERM itself: no shell in between.
ENTRYPOINT ["python", "-m", "job.main"]
CMD ["--config=configs/quickstart.py", "--workdir=/storage/runs/quickstart"]

FROM runtime AS gpu
# Without a driver or the container toolkit the job ends with 69, and does not
# run on the CPU for days; -e JOB_REQUIRE_GPUS=0 takes that back.
ENV CUDA_CACHE_PATH=/tmp/.cache/cuda \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    JOB_REQUIRE_GPUS=1
COPY --from=packages-gpu /opt/venv /opt/venv
COPY --from=code /app /app
USER 10001:0
ARG REVISION=unknown
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="VGG16 on CIFAR-10, for NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY --from=code /app /app
USER 10001:0
ARG REVISION=unknown
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="VGG16 on CIFAR-10, for CPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
