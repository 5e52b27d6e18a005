# edge-glass serve in a container. /model is a run, a saved model or an export folder:
#   docker build -t edge-glass .
#   docker run -p 127.0.0.1:8000:8000 -v ./runs/RUN:/model:ro edge-glass
# PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS chooses the build of torch, for example the one without CUDA.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv --upgrade-deps /opt/edge-glass
WORKDIR /src
# dependencies first: a change of the source keeps this layer
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir edge_lib && touch edge_lib/__init__.py \
    && /opt/edge-glass/bin/pip install -c constraints.txt ".[serve,export]"
COPY edge_lib edge_lib
RUN /opt/edge-glass/bin/pip install --no-deps --no-build-isolation --force-reinstall .

FROM ${BASE}
RUN useradd --uid 1000 --create-home edge && install -d -o edge -g edge /model /cache
COPY --from=build /opt/edge-glass /opt/edge-glass
# without GOMP_SPINCOUNT, OpenMP threads spin while they wait
ENV PATH=/opt/edge-glass/bin:$PATH PYTHONUNBUFFERED=1 GOMP_SPINCOUNT=1000 HF_HOME=/cache
USER edge
WORKDIR /home/edge
VOLUME ["/model", "/cache"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready')"]
ENTRYPOINT ["edge-glass"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
