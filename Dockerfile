# The server in a container; data and app lie outside the image.
#   docker build -t labelserver .       (for a CPU build of torch, add the address of an index that has one:
#                                        --build-arg PIP_EXTRA_INDEX_URL=...)
#   docker run --rm -p 127.0.0.1:8000:8000 -v "$PWD/workspace:/workspace" labelserver
FROM python:3.12.11-slim-bookworm

RUN useradd --create-home --uid 1000 labelserver && mkdir /workspace && chown labelserver /workspace
WORKDIR /opt/labelserver
ARG PIP_EXTRA_INDEX_URL
COPY pyproject.toml constraints.txt README.md hatch_build.py ./
COPY web web
COPY labelserver labelserver
COPY apps apps
RUN pip install --no-cache-dir torch==2.13.0 && pip install --no-cache-dir --constraint constraints.txt .

USER labelserver
WORKDIR /workspace
VOLUME /workspace
EXPOSE 8000
HEALTHCHECK --interval=30s --start-period=30s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]

# The container's own network is the fence; publish the port on 127.0.0.1 or put a proxy in front.
ENTRYPOINT ["labelserver"]
CMD ["start_server", "--app", "/workspace/radiology", "--studies", "/workspace/studies", "--conf", "models", "segmentation", "--host", "0.0.0.0", "--insecure"]
