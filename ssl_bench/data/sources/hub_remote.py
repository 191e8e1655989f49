"""Asking the Hugging Face hub what a commit holds, and downloading it, by the library huggingface_hub.

Files go to the hub's own cache (HF_HOME), shared with whatever else downloaded them. What a commit holds is remembered
in CACHE/hub, so that a second run asks nobody about a commit, and can do without the network for a branch.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ssl_bench.data.packs.room import SPARE_DISK
from ssl_bench.data.places import Places
from ssl_bench.data.sources.hub_address import HubAddress
from ssl_bench.errors import DataError
from ssl_bench.records.schema import write_bytes
from ssl_bench.system import digests
from ssl_bench.system.amounts import bytes_text

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Listing:
    """The Parquet files of a commit and their bytes; ``away`` says why the hub could not be asked for a newer one."""

    commit: str
    sizes: dict[str, int]
    away: str = ""


def list_commit(address: HubAddress, revision: str, places: Places) -> Listing | None:
    """What a revision holds, from the hub or, where that is out of reach, as last seen; None where there is no such
    revision."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    memory = places.cache / "hub" / quote(address.repository, safe="")
    if _COMMIT.fullmatch(revision) and (known := _remembered(memory, revision)) is not None:
        return known
    places.progress(f"looking for {address} on {constants.ENDPOINT}", 0, 0)
    api = HfApi()
    try:
        commit = api.dataset_info(address.repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
        assert commit is not None
        tree = api.list_repo_tree(address.repository, recursive=True, revision=commit, repo_type="dataset")
        sizes = {file.path: file.size for file in tree if isinstance(file, RepoFile) and file.path.endswith(".parquet")}
    except RevisionNotFoundError:
        return None
    except HfHubHTTPError as error:
        if not _passing(error):
            raise _refusal(address, error) from None
        reason = _error_with_kind(error)
    except Exception as error:  # the client is requests, httpx or httpx2, as the library's version has it
        reason = _error_with_kind(error)
    else:
        with contextlib.suppress(OSError):  # a cache that cannot be written is packing's business
            for name in {revision, commit}:
                write_bytes(
                    _memory_of(memory, name), digests.seal(json.dumps({"commit": commit, "sizes": sizes}).encode())
                )
        return Listing(commit, sizes)
    last = _remembered(memory, revision) or _downloaded_by_others(address, revision)
    if last is None:
        raise DataError(
            f"{address}: {constants.ENDPOINT} is out of reach ({reason}), and {revision!r} of it is not in "
            f"{constants.HF_HUB_CACHE}; run once with "
            f"the network, or put its files below a data root, in {address.repository}"
        )
    return replace(last, away=reason)


def _memory_of(folder: Path, revision: str) -> Path:
    return folder / f"{quote(revision, safe='')}.json"


def _remembered(folder: Path, revision: str) -> Listing | None:
    path = _memory_of(folder, revision)
    try:
        stored = path.read_bytes() if path.is_file() else b""
        if stored[:1] == b"{":  # of an earlier version, which kept no digest
            digests.not_checked(path)
        else:
            stored = digests.read_sealed(path, "what the hub was last seen to hold, in") or b""
        known = json.loads(stored)
        return Listing(str(known["commit"]), {str(name): int(size) for name, size in known["sizes"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _downloaded_by_others(address: HubAddress, revision: str) -> Listing | None:
    """What another program (`hf download`, datasets) left in the hub's cache."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                address.repository,
                repo_type="dataset",
                revision=revision,
                local_files_only=True,
                allow_patterns="*.parquet",
            )
        )
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*.parquet")}
    except OSError:  # so is the library's "not there", and its "not all of it is there"
        return None
    return Listing(folder.name, sizes) if sizes else None


def download_files(address: HubAddress, listing: Listing, names: Sequence[str], places: Places) -> dict[str, Path]:
    """Name to file in the hub's cache, downloaded where it is not there."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    where: dict[str, Any] = {"repo_id": address.repository, "repo_type": "dataset", "revision": listing.commit}
    cached = {name: try_to_load_from_cache(filename=name, **where) for name in names}
    local = {name: Path(path) for name, path in cached.items() if isinstance(path, str)}
    missing = [name for name in names if name not in local]
    if not missing:
        return local
    needed = sum(listing.sizes[name] for name in missing)
    lacking = (
        f"{len(missing):,} of the {len(names):,} Parquet files of {address}@{listing.commit[:7]} ({bytes_text(needed)})"
    )
    if listing.away:
        raise DataError(
            f"{lacking} are not in {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} is out of reach ({listing.away})"
        )
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())).free
    if free < needed + SPARE_DISK:
        raise DataError(
            f"{address} takes {bytes_text(needed)} in {cache}, where {bytes_text(free)} are free; make room, or set "
            "HF_HOME to a folder on a larger disk"
        )
    label, before = f"downloading {address}, {bytes_text(needed)}, to {cache}", 0
    for name in missing:
        bar = _bar(places, label, before, needed)
        try:
            local[name] = Path(hf_hub_download(filename=name, tqdm_class=bar, **where))
        except Exception as error:  # as in `_list`; a disk that fills up, too
            behind = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
            if isinstance(behind, HfHubHTTPError) and not _passing(behind):
                raise _refusal(address, behind) from None
            raise DataError(
                f"{address}: {name} could not be downloaded ({_error_with_kind(behind)}); what is finished is kept, "
                "and the same command goes on from there"
            ) from None
        before += listing.sizes[name]
        places.progress(label, before, needed)
    return local


def _bar(places: Places, label: str, before: int, total: int) -> Any:
    """A class of progress bars as the library makes them, one a file, which show nothing and tell ``places.progress``
    their bytes."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})
            self.done = int(options.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.done += int(n or 0)
            places.progress(label, min(before + self.done, total), total)

        def update_transfer(self, n: float | None = 1) -> None:
            """Without it the library makes a second bar, of what came over the wire, for the same file."""

        def set_transfer_postfix_str(self, *_: Any, **__: Any) -> None:
            """Speed of that second bar."""

    return Bar


def _passing(error: Any) -> bool:
    """Whether a later try may well succeed."""
    status = error.response.status_code
    return bool(status in (408, 429) or status >= 500)


def _refusal(address: HubAddress, error: Any) -> DataError:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    token = (
        "a token, in HF_TOKEN or by `hf auth login` "
        f"({'the one found has no access' if get_token() else 'none is found'})"
    )
    if isinstance(error, GatedRepoError):
        return DataError(
            f"{address} is gated: ask for access on {constants.ENDPOINT}/datasets/{address.repository}, and give "
            f"{token}"
        )
    if not isinstance(error, RepositoryNotFoundError) and error.response.status_code != 401:
        return DataError(f"{address}: {constants.ENDPOINT} answers {_error_with_kind(error)}")
    return DataError(
        f"{address}: {constants.ENDPOINT} shows no data set {address.repository!r}; check the spelling of OWNER/NAME, "
        "and "
        f"if it is private give {token}"
    )


def _error_with_kind(error: BaseException) -> str:
    """ "ConnectError: Connection refused": the first line of an error of the library."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
