"""``settings`` of MONAI Label over ours: readable and assignable by either name, looked up at the moment of use."""

from __future__ import annotations

from typing import Any

from labelserver import settings as settings_module
from labelserver.settings import PEER_PREFIX, Settings

#: names that differ from ours by more than the prefix
_OTHER_NAMES = {
    "MONAI_LABEL_API_STR": "api_prefix",
    "MONAI_LABEL_APP_CONF": "conf",
    "MONAI_LABEL_SERVER_PORT": "port",
}

#: what apps read and this server does not act on, with the value that leaves them as they are
_UNUSED: dict[str, Any] = {
    "MONAI_LABEL_DATASTORE": "",
    "MONAI_LABEL_DATASTORE_URL": "",
    "MONAI_LABEL_DATASTORE_USERNAME": "",
    "MONAI_LABEL_DATASTORE_PASSWORD": "",
    "MONAI_LABEL_DATASTORE_API_KEY": "",
    "MONAI_LABEL_DATASTORE_CACHE_PATH": "",
    "MONAI_LABEL_DATASTORE_PROJECT": "",
    "MONAI_LABEL_DATASTORE_ASSET_PATH": "",
    "MONAI_LABEL_DATASTORE_DSA_ANNOTATION_GROUPS": "",
    "MONAI_LABEL_DICOMWEB_USERNAME": "",
    "MONAI_LABEL_DICOMWEB_PASSWORD": "",
    "MONAI_LABEL_DICOMWEB_CACHE_PATH": "",
    "MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME": False,
    "MONAI_LABEL_DICOMWEB_CONVERT_TO_NIFTI": True,
    "MONAI_LABEL_DICOMWEB_SEARCH_FILTER": {"Modality": "CT"},
    "MONAI_LABEL_DICOMWEB_CACHE_EXPIRY": 7200,
    "MONAI_LABEL_QIDO_PREFIX": None,
    "MONAI_LABEL_WADO_PREFIX": None,
    "MONAI_LABEL_STOW_PREFIX": None,
    "MONAI_LABEL_INFER_CONCURRENCY": -1,
    "MONAI_LABEL_TRACKING_ENABLED": True,
    "MONAI_LABEL_TRACKING_URI": "",
    "MONAI_LABEL_USE_ITK_FOR_DICOM_SEG": True,
    "MONAI_ZOO_SOURCE": "monaihosting",
    "MONAI_ZOO_REPO": "Project-MONAI/model-zoo/hosting_storage_v1",
    "MONAI_ZOO_AUTH_TOKEN": "",
    "MONAI_SAM_MODEL_PT": "",
    "MONAI_SAM_MODEL_CFG": "",
}


def _field(name: str) -> str:
    """Our field for a name of either house; "" if there is none."""
    ours = _OTHER_NAMES.get(name) or name.removeprefix(PEER_PREFIX).lower()
    return ours if ours in Settings.model_fields else ""


class SettingsProxy:
    """What ``from monailabel.config import settings`` gives. Values that only apps use are kept here."""

    def __init__(self) -> None:
        object.__setattr__(self, "_own", dict(_UNUSED))

    def __getattr__(self, name: str) -> Any:
        if name in self._own:
            return self._own[name]
        field = _field(name)
        if not field:
            raise AttributeError(f"There is no setting {name}.")
        value = getattr(settings_module.current(), field)
        return str(value) if field.endswith(("_dir", "_path")) and value is not None else value

    def __setattr__(self, name: str, value: Any) -> None:
        field = _field(name)
        if field and name not in self._own:
            known = settings_module.current().model_dump()
            settings_module.install(Settings(**{**known, field: value}))
        else:
            self._own[name] = value


settings = SettingsProxy()
