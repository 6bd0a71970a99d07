"""The recipe of a package's image.

One recipe for CPU and GPU: what differs is which build of torch is installed (`TORCH_INDEX`) and, where a host wants
one, the base (`BASE_IMAGE`). Names that come from people go in as JSON texts, so that nothing in them is syntax.
"""

from __future__ import annotations

import json
import re
import time

from labelserver.export.contents import ExportContents
from labelserver.export.map import layout

BASE_IMAGE = "docker.io/library/python:3.12.11-slim-bookworm"
#: torch's own index for builds without CUDA; a tenth of the size
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+")


def image_name(contents: ExportContents) -> str:
    """Repository and tag, in characters that every registry takes."""
    parts = [_NOT_IN_NAMES.sub("-", part.lower()).strip("-") for part in (contents.app, contents.model)]
    return f"{'-'.join(part for part in parts if part) or 'application'}:{contents.semantic_version}"


def text(contents: ExportContents) -> str:
    """A Dockerfile for docker, podman and buildah."""
    title, description = f"{contents.app}/{contents.model}", contents.description or "A segmentation model."
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(contents.created_ts))
    labels = {
        "org.opencontainers.image.title": title,
        "org.opencontainers.image.version": contents.semantic_version,
        "org.opencontainers.image.description": description,
        "org.opencontainers.image.created": created,
        "org.opencontainers.image.revision": contents.provenance.weights_sha256 or "unknown",
    }
    label_lines = " \\\n      ".join(f"{name}={_quoted(value)}" for name, value in labels.items())
    env_lines = " \\\n    ".join(f"{name}={value}" for name, value in layout.ENVIRONMENT.items())
    return f"""# {_comment(title)}, version {contents.version}: a MONAI Application Package ({layout.SPECIFICATION}).
#   CPU:      docker build -t NAME .
#   CUDA:     docker build -t NAME --build-arg TORCH_INDEX= .   (torch's build on PyPI brings CUDA, the host its driver)
#   offline:  labelserver map wheels .    then build without network
ARG BASE_IMAGE={BASE_IMAGE}
FROM ${{BASE_IMAGE}}

LABEL {label_lines}

ENV {env_lines} \\
    HOLOSCAN_TIMEOUT=0 \\
    PYTHONUNBUFFERED=1 \\
    PYTHONDONTWRITEBYTECODE=1 \\
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# /var/run is /run; a run time that has to make /run/holoscan itself makes it unreadable to the user below.
RUN set -e; \\
    mkdir -p {layout.APP} {layout.MODELS} {layout.DOCS} /etc/holoscan {layout.WORK}/input {layout.WORK}/output \\
        {layout.LOGS} /run/holoscan; \\
    [ -e /var/run ] || ln -s /run /var/run; \\
    chmod 0755 /run/holoscan; \\
    getent group {layout.USER} >/dev/null || echo 'holoscan:x:{layout.USER}:' >> /etc/group; \\
    getent passwd {layout.USER} >/dev/null || \\
        echo 'holoscan:x:{layout.USER}:{layout.USER}::{layout.WORK}:/usr/sbin/nologin' >> /etc/passwd; \\
    chown -R {layout.USER}:{layout.USER} {layout.WORK}

# Packages: from wheels/ if it was filled, else from the network; "none" if the base image brings them.
ARG DEPENDENCIES=install
ARG TORCH_INDEX={CPU_INDEX}
COPY app/requirements.txt /tmp/build/requirements.txt
COPY wheels /tmp/build/wheels
RUN set -e; cd /tmp/build; \\
    if [ "$DEPENDENCIES" = none ]; then echo 'packages come from the base image'; \\
    elif [ -e wheels/requirements.txt ]; then \\
        python3 -m pip install --no-cache-dir --no-index --find-links wheels --require-hashes \\
            -r wheels/requirements.txt; \\
    else \\
        if [ -n "$TORCH_INDEX" ]; then \\
            grep '^torch==' requirements.txt > torch.txt; \\
            python3 -m pip install --no-cache-dir -i "$TORCH_INDEX" -r torch.txt; fi; \\
        python3 -m pip install --no-cache-dir -r requirements.txt; fi; \\
    rm -rf /tmp/build

COPY tools {layout.TOOLS}
COPY models {layout.MODELS}
COPY docs {layout.DOCS}
COPY map/app.json {layout.APP_MANIFEST}
COPY map/pkg.json {layout.PACKAGE_MANIFEST}
COPY app.yaml {layout.CONFIG}
COPY app {layout.APP}

WORKDIR {layout.WORK}
USER {layout.USER}:{layout.USER}
ENTRYPOINT ["{layout.TOOLS}"]
"""


def _quoted(text_: str) -> str:
    """A text in double quotes in which `$` and line breaks mean nothing."""
    plain = " ".join(text_.split())
    return json.dumps(plain, ensure_ascii=False).replace("$", "\\$").replace("`", "'")


def _comment(text_: str) -> str:
    return " ".join(text_.split())
