"""How a set of the Hugging Face hub is named, and which of its Parquet files are meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ssl_bench.data.sources.hub import sort_into_splits, split_named
from ssl_bench.errors import DataError, did_you_mean

SYNTAX = "hf:OWNER/NAME[@REVISION][:CONFIG]"

_ADDRESS = re.compile(r"(?P<repository>[^/@:]+/[^/@:]+)(?:@(?P<revision>[^@:]+))?(?::(?P<config>[^:]+))?")
_PARTIAL = "partial-"  # a split of which the conversion holds only the beginning
_SHOWN = 20


@dataclass(frozen=True)
class HubAddress:
    repository: str
    revision: str | None
    config: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repository}{revision}{f':{self.config}' if self.config else ''}"


def parse_address(address: str) -> HubAddress:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise DataError(f"hf:{address} is not the name of a set on the hub; write {SYNTAX}, such as hf:uoft-cs/cifar10")
    try:
        validate_repo_id(match["repository"])
    except HFValidationError as error:
        raise DataError(f"hf:{address} is not the name of a set on the hub: {error}") from None
    return HubAddress(match["repository"], match["revision"], match["config"] and PurePath(match["config"]).as_posix())


def choose_config(address: HubAddress, where: str, names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The files of one config by split, and those of it that are of no split.

    Configs are folders that hold a train split each.
    """
    config = address.config
    held: dict[str, list[PurePath]] = {}
    for name in sorted(names):
        folder = PurePath(name).parent
        if split_named(folder.name.removeprefix(_PARTIAL)):
            folder = folder.parent
        if folder.name == "data":
            folder = folder.parent
        held.setdefault(folder.as_posix(), []).append(PurePath(name).relative_to(folder))
    sorted_files = {folder: sort_into_splits(files) for folder, files in held.items()}
    partial = {
        folder: sorted({file.parent.name for file in files if file.parent.name.startswith(_PARTIAL)})
        for folder, files in held.items()
    }
    able = [folder for folder in held if "train" in sorted_files[folder] or partial[folder]]
    if config is not None and config not in held:
        raise DataError(
            f"{where}: no config (folder of Parquet files) is called {config!r}; {did_you_mean(config, held)}"
        )
    if config is None and len(able) > 1:
        raise DataError(f"{where} has several configs: {', '.join(able[:_SHOWN])}; choose one, as {address}:{able[0]}")
    if config is None and not able:
        raise DataError(
            f"{where} has no train split; the names of its Parquet files must be like train.parquet, "
            "train-00000-of-00001.parquet or "
            f"train/0000.parquet, and they are {', '.join(sorted(names)[:_SHOWN])}; download them and give one as "
            "parquet:FILE"
        )
    chosen = able[0] if config is None else config
    if partial[chosen]:
        raise DataError(
            f"{where}: the hub has converted only the beginning of it ({chosen}/{partial[chosen][0]}), which is not "
            "the "
            "whole set"
        )
    if "train" not in sorted_files[chosen]:
        raise DataError(
            f"{where} has no train split; its Parquet files: {', '.join(str(file) for file in held[chosen][:_SHOWN])}"
        )
    used = {file for files in sorted_files[chosen].values() for file in files}
    splits = {split: [(chosen / file).as_posix() for file in files] for split, files in sorted_files[chosen].items()}
    return splits, [file.as_posix() for file in held[chosen] if file not in used]
