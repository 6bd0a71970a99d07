"""Runs in the environment of the published client: drives a server with it and prints what it saw as JSON.

usage: drive.py URL IMAGE LABEL FOLDER
"""

import gzip
import json
import sys
import time
import warnings

warnings.simplefilter("ignore", DeprecationWarning)

from monailabel.client import MONAILabelClient  # noqa: E402 - the filter must stand before it
from monailabel.client.client import MONAILabelClientException  # noqa: E402


def content(path):
    with open(path, "rb") as stream:
        data = stream.read()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def until(condition, timeout_s=60):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def main(url, image, label, folder):
    client = MONAILabelClient(url, tmpdir=folder, client_id="peer-client")
    seen = {"auth": client.auth_enabled(), "info": client.info()}

    seen["uploaded"] = client.upload_image(image, image_id="new image", params={"ward": "7"})
    seen["sample"] = client.next_sample("first", {"label_tag": "final"})

    session = client.create_session(image)
    session_id = session["session_id"]
    seen["session"] = client.get_session(session_id)

    mask, params = client.infer("threshold", "new image", {"result_extension": ".nrrd", "result_dtype": "uint8"})
    seen["by_image"] = {"name": mask, "head": content(mask)[:8].decode("latin-1"), "params": params}
    mask, params = client.infer("threshold", "new image", {}, session_id=session_id)
    seen["by_session"] = {"name": mask, "size": len(content(mask)), "params": params}
    mask, params = client.infer("threshold", "", {"level": 10}, file=image)
    seen["by_file"] = {"name": mask, "size": len(content(mask)), "params": params}
    seen["removed"] = client.remove_session(session_id)
    try:
        client.get_session(session_id)
        seen["session_after_removal"] = "found"
    except MONAILabelClientException as error:
        seen["session_after_removal"] = str(error)

    info = {"label_info": [{"name": "dark", "idx": 1}, {"name": "bright", "idx": 2}]}
    seen["saved"] = client.save_label("new image", label, tag="version_1", params=info)
    seen["saved_final"] = client.save_label("new image", label, params=info)
    seen["datastore"] = client.datastore()
    downloaded = client.download_label("new image", "final")
    seen["downloaded"] = {"name": downloaded, "same": content(downloaded)[352:] == content(label)[352:]}

    seen["running_before"] = client.train_status(check_if_running=True)
    seen["train"] = client.train_start("counting", {"max_epochs": 100000, "step_s": 0.02})
    until(lambda: client.train_status(check_if_running=True))
    until(lambda: client.info()["train_stats"]["counting"].get("epoch", 0) > 0)
    seen["train_status"] = client.train_status()
    seen["train_stats"] = client.info()["train_stats"]
    seen["train_stop"] = client.train_stop()
    until(lambda: not client.train_status(check_if_running=True))
    seen["train_ended"] = client.train_status()
    seen["train_stop_idle"] = client.train_stop()
    seen["train_all"] = client.train_start("", {"counting": {"max_epochs": 1}})
    until(lambda: client.train_status()["status"] == "DONE")
    try:
        client.infer("none", "new image", {})
    except MONAILabelClientException as error:
        seen["unknown_model"] = str(error)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
