# Scores on the CPU; `--build-arg DEVICE=cuda` scores on the GPU. PyTorch from the package index comes
# with its CUDA libraries either way. `--build-arg TORCH_INDEX_URL=...`, an index of CPU builds, makes
# the image 4 GB smaller. BASE may be any Debian that has Python 3.11 or later with venv.
#   docker build -t cap .
#   docker run --rm --ipc=host --user "$(id -u):$(id -g)" -v "$PWD":/work cap run    (--gpus all: GPU)
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

ARG DEVICE=cpu
ARG TORCH_INDEX_URL=""

# In an environment of its own, because Debian's Python does not let pip install beside it.
# A version such as 2.15.0+cpu counts as newer than 2.15.0, so the extra index wins.
COPY . /opt/cap
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check \
      ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} \
      --constraint /opt/cap/constraints.txt '/opt/cap[pipeline,annotate]' \
    && rm -rf /opt/cap \
    && useradd --create-home --uid 10001 cap \
    && chmod 1777 /home/cap \
    && install --directory --owner=cap --group=cap /work

# HOME and USER hold for a user given with --user too, who is in no passwd file.
ENV PATH=/opt/venv/bin:$PATH HOME=/home/cap USER=cap \
    PYTHONDONTWRITEBYTECODE=1 CAP_SCORE_DEVICE=${DEVICE}
USER 10001:10001
WORKDIR /work
ENTRYPOINT ["cap"]
CMD ["--help"]
