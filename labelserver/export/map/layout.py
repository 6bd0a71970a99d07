"""Where everything stands in a MONAI Application Package: the paths and variables of its specification, 1.0.0."""

from __future__ import annotations

SPECIFICATION = "1.0.0"

APP = "/opt/holoscan/app"
MODELS = "/opt/holoscan/models"
DOCS = "/opt/holoscan/docs"
APP_MANIFEST = "/etc/holoscan/app.json"
PACKAGE_MANIFEST = "/etc/holoscan/pkg.json"
CONFIG = "/var/holoscan/app.yaml"
WORK = "/var/holoscan"
LOGS = "/var/holoscan/logs"
EXPORT = "/var/run/holoscan/export"
TOOLS = "/usr/local/bin/holoscan-tools"

#: uid and gid of the image's user; hosts write outputs for it
USER = 1000

#: The specification's names with their values in our images; of DOCS and LOGS both spellings that hosts use.
ENVIRONMENT = {
    "HOLOSCAN_APPLICATION": APP,
    "HOLOSCAN_INPUT_PATH": f"{WORK}/input/",
    "HOLOSCAN_OUTPUT_PATH": f"{WORK}/output/",
    "HOLOSCAN_WORKDIR": f"{WORK}/",
    "HOLOSCAN_MODEL_PATH": f"{MODELS}/",
    "HOLOSCAN_CONFIG_PATH": CONFIG,
    "HOLOSCAN_APP_MANIFEST_PATH": APP_MANIFEST,
    "HOLOSCAN_PKG_MANIFEST_PATH": PACKAGE_MANIFEST,
    "HOLOSCAN_DOCS": DOCS,
    "HOLOSCAN_DOCS_PATH": DOCS,
    "HOLOSCAN_LOGS": LOGS,
    "HOLOSCAN_LOGS_PATH": LOGS,
}
