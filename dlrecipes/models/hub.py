"""Pretrained weights of timm's networks without a network: found in the cache, or refused within two seconds."""

from __future__ import annotations

import socket
import threading
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["host_answers", "weights_source"]

_CONNECT_SECONDS = 2.0
_FILES = ("model.safetensors", "pytorch_model.bin")


def weights_source(name: str) -> dict[str, Any]:
    """What ``timm.create_model(name, pretrained=True)`` needs as its ``pretrained_cfg_overlay``.

    The hub's client tries again and again for 47 seconds where there is no network, even for weights that it has. So
    the hub is asked for a connection first.

    Args:
        name: of a network, with or without the tag of its weights.

    Returns:
        Nothing if the hub answers or is not where the weights are; otherwise the file in its cache.

    Raises:
        ConnectionError: the hub does not answer, and its cache lacks the weights.
    """
    import timm
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return {}
    if not constants.HF_HUB_OFFLINE and host_answers(constants.ENDPOINT):
        return {}
    for file in (config.hf_hub_filename,) if config.hf_hub_filename else _FILES:
        found = try_to_load_from_cache(config.hf_hub_id, file)
        if isinstance(found, str):
            return {"file": found, "custom_load": False}  # as timm reads what it downloads
    host = urlsplit(constants.ENDPOINT).hostname
    raise ConnectionError("HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"{host} does not answer")


def host_answers(url: str, seconds: float = _CONNECT_SECONDS) -> bool:
    """Whether a TCP connection to a host, or to the proxy before it, comes about in time.

    In a thread, since a name look-up has no time limit of its own.

    Args:
        url: with scheme and host.
        seconds: to wait, at most.
    """
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy and parts.hostname and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=seconds).close()
            connected.set()
        except OSError:
            pass

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    return connected.is_set()
