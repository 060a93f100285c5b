# syntax=docker/dockerfile:1
# On a CPU:                      docker build -t crystalpredict .
# On NVIDIA GPUs:                docker build --target cuda -t crystalpredict:cuda .
# On the files of this folder:   docker run --rm -v "$PWD:/data" crystalpredict predict *.cif
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY models models
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim AS base
# any user may run it (docker run --user): its caches go where all can write
ENV HOME=/tmp
COPY constraints.txt /
WORKDIR /data
ENTRYPOINT ["crystalpredict"]
CMD ["--help"]

FROM base AS cuda
# Triton compiles the kernels of the network when they first run, with a C compiler; the version of Debian's compiler
# does not matter
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# torch of the package index brings CUDA's libraries; the driver is the host's
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --constraint /constraints.txt /wheels/*.whl
USER 1000

# the last stage is the default
FROM base AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# torch from an index of its own: without CUDA it takes a fifth of the space
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-deps --index-url ${TORCH_INDEX} --constraint /constraints.txt torch \
    && pip install --no-cache-dir --constraint /constraints.txt /wheels/*.whl
USER 1000
