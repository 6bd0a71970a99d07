"""Flag over our variable over the peer's variable over default."""

from __future__ import annotations

import pytest

from labelserver.domain.errors import InvalidSetting
from labelserver.settings import Settings


def test_flags_win_over_variables_and_ours_over_the_peers():
    environ = {"MONAI_LABEL_SERVER_PORT": "1", "MONAI_LABEL_STUDIES": "/peer", "LABELSERVER_STUDIES": "/ours"}
    settings = Settings.from_environment(environ, host="0.0.0.0", port=None)
    assert (settings.port, settings.studies, settings.host) == (1, "/ours", "0.0.0.0")


def test_lists_and_objects_are_json_and_a_list_may_be_plain():
    environ = {
        "MONAI_LABEL_APP_CONF": '{"models": "all"}',
        "LABELSERVER_CORS_ORIGINS": "http://a, http://b",
        "LABELSERVER_ALLOWED_HOSTS": '["x"]',
    }
    settings = Settings.from_environment(environ)
    assert settings.conf == {"models": "all"}
    assert settings.cors_origins == ["http://a", "http://b"]
    assert settings.allowed_hosts == ["x"]


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "many"), ("PORT", "70000"), ("CONF", "models=all"), ("SESSIONS", "perhaps")]
)
def test_a_value_without_sense_is_named(name, value):
    with pytest.raises(InvalidSetting, match=f"LABELSERVER_{name}"):
        Settings.from_environment({f"LABELSERVER_{name}": value})


def test_a_child_builds_the_same_settings():
    settings = Settings.from_environment({}, conf={"models": "a,b"}, cors_origins=["http://a"], port=0, insecure=True)
    assert Settings.from_environment(settings.to_environment()) == settings
