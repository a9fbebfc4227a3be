# The image of the `cloud-gpu` work pool and of compose.yaml: flow runs, watcher, API and dashboard, without a GPU.
#   docker build -t hybrid-video:latest .
# Keys are never built in: they come from the container's environment or from Prefect Secret blocks.
FROM python:3.11.14-slim-bookworm AS build
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /opt/hybrid-video
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --extra studio --extra observability --no-install-project
# What the wheel is made of (pyproject.toml, tool.hatch.build.targets.wheel).
COPY prefect.yaml prefect.yaml
COPY src src
COPY flows flows
COPY tasks tasks
COPY dashboard dashboard
# Installed as a wheel: nothing of the environment points back into the sources.
RUN uv sync --frozen --no-dev --extra studio --extra observability --no-editable

FROM python:3.11.14-slim-bookworm
RUN useradd --create-home --uid 1000 hybrid && install -d -o hybrid -g hybrid /data /clips
COPY --from=build /opt/hybrid-video/.venv /opt/hybrid-video/.venv
# Where the deployments' pull step goes (prefect.yaml): owned by root, so a flow cannot change what the next one runs.
COPY prefect.yaml /opt/hybrid-video/prefect.yaml
COPY flows /opt/hybrid-video/flows
COPY tasks /opt/hybrid-video/tasks
ENV PATH=/opt/hybrid-video/.venv/bin:$PATH \
    HYBRID_VIDEO_HOME=/data \
    PREFECT_HOME=/tmp/prefect \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /opt/hybrid-video
USER 1000:1000
VOLUME /data
# What goes wrong with containers of this image is their volume: owned by somebody else, or full.
HEALTHCHECK --interval=60s --timeout=10s --start-period=20s \
    CMD ["python", "-c", "import os, tempfile; tempfile.TemporaryFile(dir=os.environ['HYBRID_VIDEO_HOME']).write(b'x' * 65536)"]
CMD ["prefect", "flow-run", "execute"]
