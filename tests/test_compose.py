"""The team's server in `compose.yaml` is the one that the tests run against."""

from __future__ import annotations

import json

import yaml
from conftest import REPOSITORY

from annotation.environment import VERSION, clean_variables
from annotation.screen import KEYMAP


def test_it_runs_the_same_label_studio_with_the_same_keys_and_no_calls_home():
    services = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]
    server = services["label-studio"]
    variables = server["environment"]
    assert server["image"] == f"heartexlabs/label-studio:{VERSION}"
    assert json.loads(variables["LABEL_STUDIO_EDITOR_KEYMAP"]) == KEYMAP
    calls_home = {k: v for k, v in clean_variables().items() if k.startswith("LABEL_STUDIO_")}
    assert calls_home.items() <= variables.items()
    assert variables["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"


def test_it_listens_on_loopback_and_mounts_the_photos_alone_and_read_only():
    server = yaml.safe_load((REPOSITORY / "compose.yaml").read_text())["services"]["label-studio"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    root = server["environment"]["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"]
    (photos,) = (volume for volume in server["volumes"] if root in volume)
    assert photos.endswith(f"/photos:{root}/photos:ro")


def test_every_setting_that_it_asks_for_is_in_the_example():
    text = (REPOSITORY / "compose.yaml").read_text()
    asked = {part.split("}")[0].split(":")[0] for part in text.split("${")[1:]}
    lines = (REPOSITORY / ".env.example").read_text().splitlines()
    assert asked == {line.split("=")[0] for line in lines if line and not line.startswith("#")}
