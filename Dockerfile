# Scores on the CPU unless built with `--build-arg DEVICE=cuda`. PyTorch comes with its CUDA libraries
# either way; an index of CPU builds, given as TORCH_INDEX_URL, makes the image 4 GB smaller.
#   docker build -t cap .
#   docker run --rm --ipc=host -v "$PWD":/work cap run        (with --gpus all for the GPU)
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

ARG DEVICE=cpu
ARG TORCH_INDEX_URL=""
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/cap
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY manifests manifests
COPY annotation annotation
COPY pipeline pipeline

RUN if [ -n "$TORCH_INDEX_URL" ]; then \
      pip install --index-url "$TORCH_INDEX_URL" torch torchvision; \
    fi \
    && pip install --constraint constraints.txt '.[pipeline]'

RUN useradd --create-home --uid 10001 cap && mkdir /work && chown cap:cap /work
USER cap
ENV CAP_SCORE_DEVICE=${DEVICE}
WORKDIR /work
ENTRYPOINT ["cap"]
CMD ["--help"]
