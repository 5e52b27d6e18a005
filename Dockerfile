# `edge-glass serve` in a container. /model is a run, a saved model, or an export for target onnx:
#   docker build -t edge-glass .
#   docker run -p 127.0.0.1:8000:8000 -v ./runs/RUN:/model:ro edge-glass
# Target onnx has no torch: it serves exports, without an index to search. PIP_EXTRA_INDEX_URL or
# PIP_FIND_LINKS chooses the build of torch, such as the one without CUDA.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PATH=/opt/edge-glass/bin:$PATH PIP_NO_CACHE_DIR=1
RUN python -m venv --upgrade-deps /opt/edge-glass
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./

FROM build AS build-onnx
RUN pip install -c constraints.txt fastapi fastapi-offline filelock h11 httpx numpy omegaconf \
    onnxruntime pillow prometheus-client pydantic python-multipart pyyaml soundfile \
    tokenizers uvicorn
COPY edge_lib edge_lib
RUN pip install --no-deps .

FROM ${BASE} AS runtime
RUN useradd --uid 1000 --create-home edge && install -d -o edge -g edge /model /cache
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

FROM runtime AS onnx
COPY --from=build-onnx /opt/edge-glass /opt/edge-glass

FROM build AS build-torch
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
# dependencies first: a change of the source keeps this layer
RUN mkdir edge_lib && touch edge_lib/__init__.py && pip install -c constraints.txt ".[serve]"
COPY edge_lib edge_lib
RUN pip install --no-deps --force-reinstall .

FROM runtime AS torch
COPY --from=build-torch /opt/edge-glass /opt/edge-glass
