"""Parquet image sets of the Hugging Face hub, resolved to a commit and downloaded by the library huggingface_hub.

    hf:OWNER/NAME                 the newest commit of main, or a copy below the data root: ROOT/OWNER/NAME, with the
    files as on the hub hf:OWNER/NAME@REVISION        a commit hash, tag or branch; a copy is then passed over, for it
    does not tell its revision hf:OWNER/NAME:CONFIG          the folder CONFIG, where files of several sets lie side by
    side; "." is the outermost folder

Images go to the hub's own cache (HF_HOME), shared with whatever else downloaded them. What a commit holds is remembered
in CACHE/hub, so that a second run asks nobody about a commit, and can do without the network for a branch.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.base import Source, after_colon
from ssl_bench.data.sources.hub_address import SYNTAX, HubAddress, choose_config, parse_address
from ssl_bench.data.sources.hub_remote import Listing, download_files, list_commit
from ssl_bench.data.sources.parquet_source import read_parquet, readers_of
from ssl_bench.errors import DataError, did_you_mean
from ssl_bench.spec.data import SourceSpec

_MAIN = "main"
_CONVERTED = "refs/convert/parquet"  # the hub's own conversion of main
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


class HubSource(Source):
    """A Parquet image set of the Hugging Face hub."""

    name = "hf"
    argument = SYNTAX.partition(":")[2]
    images = (
        "a set of the Hugging Face hub in such files, downloaded; hf:OWNER/NAME@REVISION pins it, "
        "hf:OWNER/NAME:CONFIG takes one of many"
    )

    def settings(self, spec: Any) -> Collection[str]:
        return ("image", "target", "group")

    def open(self, spec: Any, places: Places) -> RawSet:
        fetched = fetch(after_colon(spec.source), places, spec)
        return read_parquet(fetched.name, fetched.files, spec, fetched.name, fetched.notes)


def fetch(written: str, places: Places, spec: SourceSpec | None = None) -> Fetched:
    """The Parquet files of ``OWNER/NAME[@REVISION][:CONFIG]``: of train and test, and of validation only where test is
    of no use.

    ``spec`` : the source's settings, which may name the columns of images and labels.

    Raises
    ------
    DataError : a malformed name; no such set, revision or config, several configs, or no Parquet files; a token that is
        needed; a hub out of reach with nothing in the cache; a full disk; a broken download (the next one goes on from
        there).
    """
    address = parse_address(written)
    if (copy := _copy(address, places)) is not None:
        return copy
    revision, notes = address.revision or _MAIN, []
    listing = _revision(address, revision, places)
    if not listing.sizes:
        revision, listing = _CONVERTED, _conversion(address, places)
        notes.append(f"{address} holds no Parquet files; the hub's own conversion of it is used ({_CONVERTED})")
    splits, unused = choose_config(address, str(address), list(listing.sizes))
    name = f"hf:{address.repository}@{listing.commit[:7]}{f':{address.config}' if address.config else ''}"
    if listing.commit != revision:
        newest = (
            f"the newest copy of {revision} here, for the hub could not be asked ({listing.away})"
            if listing.away
            else f"{revision} now"
        )
        notes.append(f"{name} is revision {listing.commit}, {newest}; hf:{address.repository}@{listing.commit} pins it")
    notes += _unused(name, unused)
    wanted = ["train", "test" if "test" in splits else "validation"]
    local = download_files(address, listing, [file for split in wanted for file in splits.get(split, [])], places)
    if {"test", "validation"} <= splits.keys():
        if _test_has_labels(
            {split: [local[file] for file in splits[split]] for split in ("train", "test")},
            spec or SourceSpec(source=str(address)),
        ):
            notes.append(f"{name}: its validation split is not downloaded; validation images are taken from train")
        else:
            local |= download_files(address, listing, splits["validation"], places)
            wanted.append("validation")
    return Fetched(
        name, {split: [local[file] for file in splits[split]] for split in wanted if split in splits}, tuple(notes)
    )


def _copy(address: HubAddress, places: Places) -> Fetched | None:
    if places.root is None or address.revision is not None or not (folder := places.root / address.repository).is_dir():
        return None
    names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.parquet")]
    if not names:
        return None
    splits, unused = choose_config(address, str(folder), names)
    name = f"{address} (copy)"
    notes = [f"{name} is read from {address.repository}, below the data root, which does not tell its revision"]
    notes += _unused(name, unused)
    return Fetched(name, {split: [folder / file for file in files] for split, files in splits.items()}, tuple(notes))


def _unused(name: str, files: Sequence[str]) -> list[str]:
    return (
        [f"{name}: {len(files):,} Parquet files of no known split are not used: {', '.join(files[:_SHOWN])}"]
        if files
        else []
    )


def _revision(address: HubAddress, revision: str, places: Places) -> Listing:
    listing = list_commit(address, revision, places)
    if listing is not None:
        return listing
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(address.repository, repo_type="dataset")
        known = [ref.name for ref in (*refs.branches, *refs.tags)]
    except Exception:  # only for the hint
        known = []
    raise DataError(
        f"hf:{address.repository} has no revision {revision!r}; give a commit hash, tag or branch; "
        f"{did_you_mean(revision, known)}"
    )


def _conversion(address: HubAddress, places: Places) -> Listing:
    by_hand = (
        f"`hf download {address.repository} --repo-type dataset --local-dir DIR` gets its files, and folder:DIR reads "
        "folders of images"
    )
    if address.revision is not None:
        raise DataError(
            f"{address} holds no Parquet files, and the hub converts only the newest revision; leave "
            f"{address.revision} "
            f"out, or: {by_hand}"
        )
    listing = list_commit(address, _CONVERTED, places)
    if listing is None or not listing.sizes:
        raise DataError(f"{address} holds no Parquet files, and the hub has not converted it to such; {by_hand}")
    return listing


def _test_has_labels(files: dict[str, list[Path]], spec: SourceSpec) -> bool:
    """Whether test images have labels, in the column that train has them in."""
    labels = readers_of(files, spec)["test"].labels()
    return labels is not None and bool((labels[0] >= 0).any())
