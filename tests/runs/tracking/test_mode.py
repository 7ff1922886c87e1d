import socket
import sys

import pytest

from dlrecipes.runs.tracking.mode import choose_mode


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch, tmp_path):
    """No key, no netrc, no settings file, no proxy: the state of a fresh machine."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def host(monkeypatch):
    """A server on this machine that takes connections, in the place of the API's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_without_key_it_is_offline_and_says_why(host):
    for requested in ("auto", "online"):
        mode, why = choose_mode(requested)
        assert mode == "offline"
        assert "no API key" in why


@pytest.mark.parametrize("place", ["environment", "netrc"])
def test_with_key_and_host_it_is_online(host, place, monkeypatch, tmp_path):
    if place == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    else:
        (tmp_path / ".netrc").write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
        (tmp_path / ".netrc").chmod(0o600)
    assert choose_mode("auto")[0] == "online"


def test_key_of_another_host_or_a_damaged_netrc_is_no_key(host, tmp_path):
    (tmp_path / ".netrc").write_text("machine example.org\n  login user\n  password x\n")
    assert choose_mode("auto")[0] == "offline"
    (tmp_path / ".netrc").write_text("machine\n what is this")
    assert choose_mode("auto")[0] == "offline"


def test_with_key_but_without_host_it_is_offline(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")  # closed again: the connection is refused
    assert choose_mode("online") == ("offline", "127.0.0.1 does not answer")


def test_a_name_that_resolves_slowly_does_not_hold_the_run(host, monkeypatch):
    import threading

    asked, release = threading.Event(), threading.Event()

    def resolve_slowly(*args, **kwargs):
        asked.set()
        release.wait(30)
        raise OSError("no such name")

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr("socket.create_connection", resolve_slowly)
    monkeypatch.setattr("dlrecipes.runs.tracking.mode._CONNECT_SECONDS", 0.05)
    assert choose_mode("auto")[0] == "offline"
    assert asked.is_set()
    assert not release.is_set()  # the answer did not wait for the look-up
    release.set()


def test_the_proxy_is_asked_where_there_is_one(host, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://does-not-exist.invalid")
    assert choose_mode("auto")[0] == "offline"
    monkeypatch.setenv("http_proxy", f"http://{host}")
    assert choose_mode("auto")[0] == "online"


@pytest.mark.parametrize(
    ("told", "expected"), [("disabled", "off"), ("offline", "offline"), ("dryrun", "offline"), ("online", "online")]
)
def test_auto_follows_wandb_mode(host, monkeypatch, told, expected):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_MODE", told)
    assert choose_mode("auto")[0] == expected
    assert choose_mode("online")[0] == "online"  # an explicit wish is stronger
    assert choose_mode("off")[0] == "off"


def test_auto_follows_wandbs_settings_file(host, monkeypatch, tmp_path):
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    (tmp_path / "settings").write_text("[default]\nmode = offline\n")
    wandb.teardown()
    assert choose_mode("auto") == ("offline", "WANDB_MODE or W&B's settings say offline")


def test_broken_wandb_means_off(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    mode, why = choose_mode("auto")
    assert mode == "off"
    assert "cannot be used" in why


def test_unknown_mode_is_named():
    with pytest.raises(ValueError, match="got 'maybe'"):
        choose_mode("maybe")
