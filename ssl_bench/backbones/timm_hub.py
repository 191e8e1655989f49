"""timm's pretrained networks, from its cache or the hub."""

from __future__ import annotations

from typing import Any

import timm

from ssl_bench.errors import WeightsError

REACH_SECONDS = 5.0  # for a first answer of the hub, before anything is downloaded


class AbsentWeights(WeightsError):
    """Weights that would have to be downloaded, and cannot be here and now."""


def pretrained_timm(source: str, name: str, download: bool) -> Any:
    """timm's network with its weights, from the cache where they are there: a hub that is away is asked for minutes
    otherwise."""
    from huggingface_hub import constants

    config = timm.get_pretrained_cfg(name)
    if config is not None and config.hf_hub_id:
        online, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            return timm.create_model(name, pretrained=True, num_classes=0)
        except Exception:  # not in the cache, or not whole
            pass
        finally:
            constants.HF_HUB_OFFLINE = online
    if not download:
        raise AbsentWeights(f"{source} is not in timm's cache, and a plan downloads nothing")
    away = _away()
    if away:
        raise AbsentWeights(
            f"{source} is not in timm's cache, and {away}; run once where the hub can be reached, or leave the row out"
        )
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else "no reason given"
        raise AbsentWeights(
            f"{source} is not in timm's cache and could not be downloaded: {type(error).__name__}: {reason[:200]}"
        ) from error


def _away() -> str:
    """Why the hub cannot be reached; "" where it answers."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=REACH_SECONDS)
    except Exception as error:
        return f"{constants.ENDPOINT} is out of reach ({type(error).__name__})"
    return ""
