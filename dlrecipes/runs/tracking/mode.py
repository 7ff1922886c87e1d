"""Whether Weights & Biases is used online, offline or not at all: decided without a prompt, within three seconds."""

from __future__ import annotations

import netrc
import os
from typing import Literal
from urllib.parse import urlsplit

from dlrecipes.models.hub import host_answers

__all__ = ["TrackingMode", "choose_mode"]

TrackingMode = Literal["auto", "online", "offline", "off"]

_CONNECT_SECONDS = 2.0
_MODES = ("auto", "online", "offline", "off")
# W&B's own words for its modes, in WANDB_MODE and in its settings file.
_WANDB_MODES: dict[str, TrackingMode] = {
    "disabled": "off",
    "offline": "offline",
    "dryrun": "offline",
    "online": "online",
    "run": "online",
}


def choose_mode(requested: TrackingMode) -> tuple[Literal["online", "offline", "off"], str]:
    """Decide the mode before the first ``wandb.init``, since a failed online start takes up to 20 s.

    ``"auto"`` follows ``WANDB_MODE`` and W&B's settings file (``wandb offline``). Online needs an API key
    (``WANDB_API_KEY``, netrc or W&B's settings) and a TCP connection to the API's host, or to the proxy before it,
    within 2 s; else the run is offline.

    Returns:
        The mode, and why in a few words.

    Raises:
        ValueError: unknown mode.
    """
    if requested not in _MODES:
        raise ValueError(f"mode must be one of {', '.join(_MODES)}, got {requested!r}")
    if requested == "off":
        return "off", "as asked"
    try:
        import wandb

        settings = wandb.setup().settings
    except Exception as error:  # a broken installation must not end a training
        return "off", f"wandb cannot be used: {type(error).__name__}"
    why = "as asked"
    if requested == "auto":
        told = os.environ.get("WANDB_MODE") or settings.mode
        # "online" is also the default of the settings, so it says nothing
        if _WANDB_MODES.get(told) in ("off", "offline"):
            requested, why = _WANDB_MODES[told], f"WANDB_MODE or W&B's settings say {told}"
    if requested == "off":
        return "off", why
    if requested == "offline":
        return "offline", why
    url = os.environ.get("WANDB_BASE_URL") or settings.base_url
    if not _has_key(url, bool(settings.api_key)):
        return "offline", "no API key: 'wandb login' sets one"
    if not host_answers(url, _CONNECT_SECONDS):
        return "offline", f"{urlsplit(url).hostname} does not answer"
    return "online", "API key and network found"


def _has_key(url: str, in_settings: bool) -> bool:
    """A key in the environment, in W&B's settings, or in netrc for the API's host."""
    if in_settings or os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    hosts = {urlsplit(url).netloc}
    if not os.environ.get("WANDB_BASE_URL"):
        hosts.add("api.wandb.ai")  # keys stored by older versions, which newer ones still find
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    for place in places:
        try:
            stored = netrc.netrc(os.path.expanduser(place))
        except (OSError, netrc.NetrcParseError):
            continue
        if any(host in stored.hosts for host in hosts):
            return True
    return False
