# The image of the `cloud-gpu` work pool: flow runs without a GPU, on rented GPUs and Google.
#   docker build -t hybrid-video:latest .
# Keys are never built in: they come from the container's environment or from Prefect Secret blocks.
FROM python:3.11-slim-bookworm AS build
COPY --from=ghcr.io/astral-sh/uv:0.13.9 /uv /usr/local/bin/uv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /opt/hybrid-video
COPY pyproject.toml uv.lock README.md LICENSE prefect.yaml ./
RUN uv sync --frozen --no-dev --extra studio --no-install-project
COPY src src
COPY flows flows
COPY tasks tasks
RUN uv sync --frozen --no-dev --extra studio

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 hybrid && install -d -o hybrid /data
COPY --from=build --chown=root:root /opt/hybrid-video /opt/hybrid-video
ENV PATH=/opt/hybrid-video/.venv/bin:$PATH HYBRID_VIDEO_HOME=/data PYTHONUNBUFFERED=1
WORKDIR /opt/hybrid-video
USER hybrid
VOLUME /data
CMD ["prefect", "flow-run", "execute"]
