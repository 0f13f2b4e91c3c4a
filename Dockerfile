# For CPUs:         docker build --tag renaissance .
# For NVIDIA GPUs:  docker build --build-arg TORCH_INDEX=https://pypi.org/simple --tag renaissance .
#
# PyTorch's packages on PyPI bring CUDA's libraries along; the host needs NVIDIA's driver and container
# toolkit. Another base with Python 3.11 or later will do, such as python:3.11, which has the compiler
# that train.compile needs, or a cluster's own: --build-arg BASE=...
ARG BASE=python:3.11-slim
FROM ${BASE}

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/renaissance

# By itself: it is most of the image, and changes only with its version.
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} \
    --constraint constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY renaissance renaissance
RUN python -m pip install --no-cache-dir --extra-index-url ${TORCH_INDEX} \
    --constraint constraints.txt '.[lora,remote]'

RUN useradd --create-home --uid 1000 renaissance && install --directory --owner 1000 /work
USER 1000
WORKDIR /work
ENTRYPOINT ["renaissance"]
CMD ["--help"]
