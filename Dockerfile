# Two images from one file; they differ in the build of torch alone.
#   docker build --target cpu  -t seggpt:cpu  --build-arg TORCH_INDEX=<PyTorch's index of CPU builds> .
#   docker build --target cuda -t seggpt:cuda .
# Without TORCH_INDEX the cpu image works too, but on x86-64 it carries CUDA libraries that it never uses.
#
# The cuda image needs no nvidia/cuda base: the CUDA wheels of torch bring the runtime, cuBLAS and cuDNN with them, and the
# driver comes from the host (NVIDIA Container Toolkit). A CUDA base would only hold the same libraries a second time.
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS packages
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# The project's dependencies and what S3 needs, without the dev extras; torch comes below, once for each target.
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
needs = project['dependencies'] + project['optional-dependencies']['s3']; \
print(*(need for need in needs if not need.startswith('torch')), sep='\n')" > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

FROM packages AS packages-cpu
ARG TORCH_INDEX=
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch

FROM packages AS packages-cuda
ARG TORCH_INDEX=
# Without an index of its own: "===" asks for the plain version number, which on PyPI is the CUDA build.
RUN version=$(sed -n 's/^torch==//p' constraints.txt) \
    && if [ -n "$TORCH_INDEX" ]; then pip install --constraint constraints.txt --index-url "$TORCH_INDEX" torch; \
    else pip install --constraint constraints.txt "torch===$version"; fi

FROM python:${PYTHON_VERSION}-slim AS runtime
LABEL org.opencontainers.image.title="SegGPT" \
    org.opencontainers.image.description="In-context segmentation as a service: SegGPT over HTTP" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="Apache-2.0"
# Nothing but downloaded checkpoints and registered prompts is ever written; the user owns their folders and nothing else.
RUN useradd --system --uid 10001 --no-create-home --home-dir /var/cache/seggpt --shell /usr/sbin/nologin seggpt \
    && install -d -o seggpt -g seggpt /var/cache/seggpt /var/lib/seggpt
# GLIBC_TUNABLES: decoded photos lie in large pages; one of 12 megapixels is otherwise taken from the kernel in 12,000 pieces.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    HF_HOME=/var/cache/seggpt \
    SEGGPT_PROMPTS=/var/lib/seggpt/prompts \
    SEGGPT_HOST=0.0.0.0 \
    SEGGPT_PORT=8000
WORKDIR /srv/seggpt
EXPOSE 8000
VOLUME /var/cache/seggpt /var/lib/seggpt
STOPSIGNAL SIGTERM
# Ready, not live: `depends_on: service_healthy` and load balancers read "healthy" as "send traffic". Docker restarts
# nothing on its own when this fails; a worker that dies is replaced inside. The start period covers a first download.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15m --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['SEGGPT_PORT'] + '/health/ready', timeout=4)"]
# The exec form: SIGTERM reaches the service itself, which then finishes what it accepted.
CMD ["python", "-m", "app"]

FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
COPY LICENSE ./
COPY app ./app
COPY model ./model
USER seggpt

FROM runtime AS cuda
# Triton compiles a small launcher for its kernels with the system's C compiler; without one slower kernels stand in.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/venv /opt/venv
COPY LICENSE ./
COPY app ./app
COPY model ./model
USER seggpt
