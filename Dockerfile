# CPU by default; `--build-arg VARIANT=gpu` keeps the CUDA libraries that PyTorch brings along.
#   docker build -t cap .
#   docker run --rm --ipc=host -v "$PWD":/work cap run        (--gpus all for the gpu variant)
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}

ARG VARIANT=cpu
ENV PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/cap
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY manifests manifests
COPY annotation annotation
COPY pipeline pipeline

# The CPU wheels of PyTorch lie on its own index; the CUDA build of the package index runs on a CPU
# too and is taken where that index cannot be reached.
RUN if [ "$VARIANT" = cpu ]; then \
      grep -v -i -e '^nvidia-' -e '^cuda-' -e '^triton' constraints.txt > /tmp/constraints.txt; \
      pip install --constraint /tmp/constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch torchvision \
      || echo "PyTorch's own index cannot be reached: taking the CUDA build"; \
    fi; \
    pip install --constraint constraints.txt '.[pipeline]'

RUN useradd --create-home --uid 10001 cap && mkdir /work && chown cap:cap /work
USER cap
WORKDIR /work
ENTRYPOINT ["cap"]
CMD ["--help"]
