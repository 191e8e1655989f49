"""Parquet image sets of the Hugging Face hub, resolved to a commit and downloaded by the library huggingface_hub.

    hf:OWNER/NAME                 the newest commit of main, or a copy below the data root: ROOT/OWNER/NAME, with the files as on the hub
    hf:OWNER/NAME@REVISION        a commit hash, tag or branch; a copy is then passed over, for it does not tell its revision
    hf:OWNER/NAME:CONFIG          the folder CONFIG, where files of several sets lie side by side; "." is the outermost folder

Images go to the hub's own cache (HF_HOME), shared with whatever else downloaded them. What a commit holds is remembered in CACHE/hub,
so that a second run asks nobody about a commit, and can do without the network for a branch.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from ssl_bench.data.packs.packing import SPARE_DISK
from ssl_bench.data.places import Places
from ssl_bench.data.sources.hub import sort_into_splits, split_named
from ssl_bench.data.sources.parquet_source import readers_of
from ssl_bench.errors import DataError, did_you_mean
from ssl_bench.records.schema import write_bytes
from ssl_bench.spec.matrix import SourceSpec
from ssl_bench.system import digests
from ssl_bench.system.amounts import bytes_text

SYNTAX = "hf:OWNER/NAME[@REVISION][:CONFIG]"

_ADDRESS = re.compile(r"(?P<repository>[^/@:]+/[^/@:]+)(?:@(?P<revision>[^@:]+))?(?::(?P<config>[^:]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MAIN = "main"
_CONVERTED = "refs/convert/parquet"  # the hub's own conversion of main
_PARTIAL = "partial-"  # a split of which the conversion holds only the beginning
_SHOWN = 20


@dataclass(frozen=True)
class Fetched:
    """A set that is on disk.

    Attributes
    ----------
    name : how tables call it, with the first digits of the commit.
    files : split ("train", "test", "validation") to its Parquet files in order.
    notes : what a user should know: the whole commit hash where none was asked for, files that are not used.
    """

    name: str
    files: dict[str, list[Path]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Address:
    repository: str
    revision: str | None
    config: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf:{self.repository}{revision}{f':{self.config}' if self.config else ''}"


@dataclass(frozen=True)
class _Listing:
    """The Parquet files of a commit and their bytes; ``away`` says why the hub could not be asked for a newer one."""

    commit: str
    sizes: dict[str, int]
    away: str = ""


def fetch(address: str, places: Places, spec: SourceSpec | None = None) -> Fetched:
    """The Parquet files of ``OWNER/NAME[@REVISION][:CONFIG]``: of train and test, and of validation only where test is of no use.

    ``spec`` : the source's settings, which may name the columns of images and labels.

    Raises
    ------
    DataError : a malformed name; no such set, revision or config, several configs, or no Parquet files; a token that is needed; a hub
        out of reach with nothing in the cache; a full disk; a broken download (the next one goes on from there).
    """
    asked = _parse(address)
    if (copy := _copy(asked, places)) is not None:
        return copy
    revision, notes = asked.revision or _MAIN, []
    listing = _found(asked, revision, places)
    if not listing.sizes:
        revision, listing = _CONVERTED, _conversion(asked, places)
        notes.append(f"{asked} holds no Parquet files; the hub's own conversion of it is used ({_CONVERTED})")
    splits, unused = _choose(asked, str(asked), list(listing.sizes))
    name = f"hf:{asked.repository}@{listing.commit[:7]}{f':{asked.config}' if asked.config else ''}"
    if listing.commit != revision:
        newest = (
            f"the newest copy of {revision} here, for the hub could not be asked ({listing.away})"
            if listing.away
            else f"{revision} now"
        )
        notes.append(f"{name} is revision {listing.commit}, {newest}; hf:{asked.repository}@{listing.commit} pins it")
    notes += _unused(name, unused)
    wanted = ["train", "test" if "test" in splits else "validation"]
    local = _download(asked, listing, [file for split in wanted for file in splits.get(split, [])], places)
    if {"test", "validation"} <= splits.keys():
        if _labelled(
            {split: [local[file] for file in splits[split]] for split in ("train", "test")},
            spec or SourceSpec(source=str(asked)),
        ):
            notes.append(f"{name}: its validation split is not downloaded; validation images are taken from train")
        else:
            local |= _download(asked, listing, splits["validation"], places)
            wanted.append("validation")
    return Fetched(
        name, {split: [local[file] for file in splits[split]] for split in wanted if split in splits}, tuple(notes)
    )


def _parse(address: str) -> _Address:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise DataError(f"hf:{address} is not the name of a set on the hub; write {SYNTAX}, such as hf:uoft-cs/cifar10")
    try:
        validate_repo_id(match["repository"])
    except HFValidationError as error:
        raise DataError(f"hf:{address} is not the name of a set on the hub: {error}") from None
    return _Address(match["repository"], match["revision"], match["config"] and PurePath(match["config"]).as_posix())


def _copy(asked: _Address, places: Places) -> Fetched | None:
    if places.root is None or asked.revision is not None or not (folder := places.root / asked.repository).is_dir():
        return None
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet")]
    if not names:
        return None
    splits, unused = _choose(asked, str(folder), names)
    name = f"{asked} (copy)"
    notes = [f"{name} is read from {asked.repository}, below the data root, which does not tell its revision"]
    notes += _unused(name, unused)
    return Fetched(name, {split: [folder / file for file in files] for split, files in splits.items()}, tuple(notes))


def _choose(asked: _Address, where: str, names: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The files of one config by split, and those of it that are of no split. Configs are folders that hold a train split each."""
    config = asked.config
    held: dict[str, list[PurePath]] = {}
    for name in sorted(names):
        folder = PurePath(name).parent
        if split_named(folder.name.removeprefix(_PARTIAL)):
            folder = folder.parent
        if folder.name == "data":
            folder = folder.parent
        held.setdefault(folder.as_posix(), []).append(PurePath(name).relative_to(folder))
    found = {folder: sort_into_splits(files) for folder, files in held.items()}
    partial = {
        folder: sorted({file.parent.name for file in files if file.parent.name.startswith(_PARTIAL)})
        for folder, files in held.items()
    }
    able = [folder for folder in held if "train" in found[folder] or partial[folder]]
    if config is not None and config not in held:
        raise DataError(
            f"{where}: no config (folder of Parquet files) is called {config!r}; {did_you_mean(config, held)}"
        )
    if config is None and len(able) > 1:
        raise DataError(f"{where} has several configs: {', '.join(able[:_SHOWN])}; choose one, as {asked}:{able[0]}")
    if config is None and not able:
        raise DataError(
            f"{where} has no train split; the names of its Parquet files must be like train.parquet, train-00000-of-00001.parquet or "
            f"train/0000.parquet, and they are {', '.join(sorted(names)[:_SHOWN])}; download them and give one as parquet:FILE"
        )
    chosen = able[0] if config is None else config
    if partial[chosen]:
        raise DataError(
            f"{where}: the hub has converted only the beginning of it ({chosen}/{partial[chosen][0]}), and that is another set"
        )
    if "train" not in found[chosen]:
        raise DataError(
            f"{where} has no train split; its Parquet files: {', '.join(str(file) for file in held[chosen][:_SHOWN])}"
        )
    used = {file for files in found[chosen].values() for file in files}
    splits = {split: [(chosen / file).as_posix() for file in files] for split, files in found[chosen].items()}
    return splits, [file.as_posix() for file in held[chosen] if file not in used]


def _unused(name: str, files: Sequence[str]) -> list[str]:
    return (
        [f"{name}: {len(files):,} Parquet files of no known split are not used: {', '.join(files[:_SHOWN])}"]
        if files
        else []
    )


def _found(asked: _Address, revision: str, places: Places) -> _Listing:
    listing = _list(asked, revision, places)
    if listing is not None:
        return listing
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(asked.repository, repo_type="dataset")
        known = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # only for the hint
        known = []
    raise DataError(
        f"hf:{asked.repository} has no revision {revision!r}; give a commit hash, tag or branch; {did_you_mean(revision, known)}"
    )


def _conversion(asked: _Address, places: Places) -> _Listing:
    by_hand = f"`hf download {asked.repository} --repo-type dataset --local-dir DIR` gets its files, and folder:DIR reads folders of images"
    if asked.revision is not None:
        raise DataError(
            f"{asked} holds no Parquet files, and the hub converts only the newest revision; leave {asked.revision} out, or: {by_hand}"
        )
    listing = _list(asked, _CONVERTED, places)
    if listing is None or not listing.sizes:
        raise DataError(f"{asked} holds no Parquet files, and the hub has not converted it to such; {by_hand}")
    return listing


def _list(asked: _Address, revision: str, places: Places) -> _Listing | None:
    """What a revision holds, from the hub or, where that is out of reach, as last seen; None where there is no such revision."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError
    from huggingface_hub.hf_api import RepoFile

    memory = places.cache / "hub" / quote(asked.repository, safe="")
    if _COMMIT.fullmatch(revision) and (known := _remembered(memory, revision)) is not None:
        return known
    places.progress(f"looking for {asked} on {constants.ENDPOINT}", 0, 0)
    api = HfApi()
    try:
        commit = api.dataset_info(asked.repository, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha
        assert commit is not None
        tree = api.list_repo_tree(asked.repository, recursive=True, revision=commit, repo_type="dataset")
        sizes = {file.path: file.size for file in tree if isinstance(file, RepoFile) and file.path.endswith(".parquet")}
    except RevisionNotFoundError:
        return None
    except HfHubHTTPError as error:
        if not _passing(error):
            raise _refusal(asked, error) from None
        reason = _reason(error)
    except Exception as error:  # the client is requests, httpx or httpx2, as the library's version has it
        reason = _reason(error)
    else:
        with contextlib.suppress(OSError):  # a cache that cannot be written is packing's business
            for name in {revision, commit}:
                write_bytes(
                    _memory_of(memory, name), digests.seal(json.dumps({"commit": commit, "sizes": sizes}).encode())
                )
        return _Listing(commit, sizes)
    last = _remembered(memory, revision) or _downloaded_by_others(asked, revision)
    if last is None:
        raise DataError(
            f"{asked}: {constants.ENDPOINT} is out of reach ({reason}), and {revision!r} of it is not in {constants.HF_HUB_CACHE}; run once with "
            f"the network, or put its files below a data root, in {asked.repository}"
        )
    return replace(last, away=reason)


def _memory_of(folder: Path, revision: str) -> Path:
    return folder / f"{quote(revision, safe='')}.json"


def _remembered(folder: Path, revision: str) -> _Listing | None:
    path = _memory_of(folder, revision)
    try:
        stored = path.read_bytes() if path.is_file() else b""
        if stored[:1] == b"{":  # of an earlier version, which kept no digest
            digests.not_checked(path)
        else:
            stored = digests.read_sealed(path, "what the hub was last seen to hold, in") or b""
        known = json.loads(stored)
        return _Listing(str(known["commit"]), {str(name): int(size) for name, size in known["sizes"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _downloaded_by_others(asked: _Address, revision: str) -> _Listing | None:
    """What another program (`hf download`, datasets) left in the hub's cache."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                asked.repository,
                repo_type="dataset",
                revision=revision,
                local_files_only=True,
                allow_patterns="*.parquet",
            )
        )
        sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in folder.rglob("*.parquet")}
    except OSError:  # so is the library's "not there", and its "not all of it is there"
        return None
    return _Listing(folder.name, sizes) if sizes else None


def _download(asked: _Address, listing: _Listing, names: Sequence[str], places: Places) -> dict[str, Path]:
    """Name to file in the hub's cache, downloaded where it is not there."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    where: dict[str, Any] = {"repo_id": asked.repository, "repo_type": "dataset", "revision": listing.commit}
    cached = {name: try_to_load_from_cache(filename=name, **where) for name in names}
    local = {name: Path(path) for name, path in cached.items() if isinstance(path, str)}
    missing = [name for name in names if name not in local]
    if not missing:
        return local
    needed = sum(listing.sizes[name] for name in missing)
    lacking = (
        f"{len(missing):,} of the {len(names):,} Parquet files of {asked}@{listing.commit[:7]} ({bytes_text(needed)})"
    )
    if listing.away:
        raise DataError(
            f"{lacking} are not in {constants.HF_HUB_CACHE}, and {constants.ENDPOINT} is out of reach ({listing.away})"
        )
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())).free
    if free < needed + SPARE_DISK:
        raise DataError(
            f"{asked} takes {bytes_text(needed)} in {cache}, where {bytes_text(free)} are free; make room, or set HF_HOME to a folder on a larger disk"
        )
    label, before = f"downloading {asked}, {bytes_text(needed)}, to {cache}", 0
    for name in missing:
        bar = _bar(places, label, before, needed)
        try:
            local[name] = Path(hf_hub_download(filename=name, tqdm_class=bar, **where))
        except Exception as error:  # as in `_list`; a disk that fills up, too
            behind = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
            if isinstance(behind, HfHubHTTPError) and not _passing(behind):
                raise _refusal(asked, behind) from None
            raise DataError(
                f"{asked}: {name} could not be downloaded ({_reason(behind)}); what is finished is kept, and the same command goes on from there"
            ) from None
        before += listing.sizes[name]
        places.progress(label, before, needed)
    return local


def _bar(places: Places, label: str, before: int, total: int) -> Any:
    """A class of progress bars as the library makes them, one a file, which show nothing and tell ``places.progress`` their bytes."""
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


def _labelled(files: dict[str, list[Path]], spec: SourceSpec) -> bool:
    """Whether test images have labels, in the column that train has them in."""
    found = readers_of(files, spec)["test"].labels()
    return found is not None and bool((found[0] >= 0).any())


def _passing(error: Any) -> bool:
    """Whether a later try may well succeed."""
    status = error.response.status_code
    return bool(status in (408, 429) or status >= 500)


def _refusal(asked: _Address, error: Any) -> DataError:
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    token = f"a token, in HF_TOKEN or by `hf auth login` ({'the one found has no access' if get_token() else 'none is found'})"
    if isinstance(error, GatedRepoError):
        return DataError(
            f"{asked} is gated: ask for access on {constants.ENDPOINT}/datasets/{asked.repository}, and give {token}"
        )
    if not isinstance(error, RepositoryNotFoundError) and error.response.status_code != 401:
        return DataError(f"{asked}: {constants.ENDPOINT} answers {_reason(error)}")
    return DataError(
        f"{asked}: {constants.ENDPOINT} shows no data set {asked.repository!r}; check the spelling of OWNER/NAME, and if it is private give {token}"
    )


def _reason(error: BaseException) -> str:
    """ "ConnectError: Connection refused": the first line of an error of the library."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
