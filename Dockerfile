# One image for the front and the workers. The GPU's driver comes from the host (NVIDIA Container Toolkit).
# A tag can be moved; `docker build --build-arg BASE=python@sha256:…` pins the very bytes.
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PALLAS_HOST=0.0.0.0 PALLAS_STATE_DIR=/state TMPDIR=/state/tmp HF_HOME=/models

# On a GPU torch.compile builds its link to the driver with it.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*

WORKDIR /app
COPY requirements.txt constraints.txt ./
# torch first: sam2 is built from source against it; its CUDA extension is optional and not needed
RUN pip install -c constraints.txt $(grep -E '^(setuptools|wheel|torch|torchvision|numpy)==' requirements.txt) \
 && SAM2_BUILD_CUDA=0 pip install --no-build-isolation -r requirements.txt
COPY model model
COPY backend backend
# photographs for `check` to try the model with; both for `fit`, to see that nothing is forgotten
COPY demo/pictures demo/pictures
COPY demo/scenes demo/scenes

RUN useradd --create-home --uid 1000 pallas \
 && mkdir -p /state/tmp /models && chown -R pallas:pallas /state /models
USER pallas
# all that is written; the rest may be read-only, with a tmpfs on /tmp
VOLUME ["/state", "/models"]
EXPOSE 9090
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD ["python", "-m", "backend", "health", "front"]
ENTRYPOINT ["python", "-m", "backend"]
# refuses to listen until PALLAS_PASSWORD is set, since other machines reach it
CMD ["serve"]
