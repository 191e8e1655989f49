"""Sets of the Hugging Face hub, from a stand-in of the hub that answers on this machine what the real one answers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest
from huggingface_hub import constants

from ssl_bench.data import Data, load
from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet
from ssl_bench.data.sources.catalogue import open_source
from ssl_bench.errors import DataError
from ssl_bench.spec.data import DataSpec, SourceSpec
from ssl_bench.spec.model import parse

REPOSITORY, TOKEN = "toys/four", "hf_right"
NAMES = ["ant", "bee", "cat", "dog"]
PAGE = 3  # entries a page of a file list


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        """A new commit on ``ref``; its hash."""
        content = json.dumps(
            [ref, len(self.commits), *((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())]
        )
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit], self.refs[ref] = files, commit
        return commit


class Hub:
    """Repositories behind two addresses: the hub's, and that of the store which it sends large files from."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []  # "GET tree", "HEAD resolve train.parquet", "GET blob train.parquet 100-"
        self.broken: Counter[str] = Counter()  # file name to how many of its downloads end half way
        self.failing: set[str] = set()  # file names whose downloads are answered with 500
        self.lost = 0  # lists of files to be answered with 503
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url, self.store = f"http://127.0.0.1:{self.port}", f"http://localhost:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def push(self, files: dict[str, bytes], ref: str = "main", repository: str = REPOSITORY) -> str:
        return self.repositories.setdefault(repository, Repository()).push(files, ref)

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for, since the last call."""
        names = [line.split()[2] for line in self.asked if line.startswith("GET blob ")]
        self.asked.clear()
        return sorted(names)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _send(self, status: int, content: bytes = b"", *, body: bool, part: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if body:
            self.wfile.write(content if part is None else content[:part])

    def _json(self, found: Any, **headers: str) -> None:
        self._send(200, json.dumps(found).encode(), body=True, Content_Type="application/json", **headers)

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(status, body=False, X_Error_Code=code, X_Error_Message=message)

    def _answer(self, body: bool) -> None:
        address = urlsplit(self.path)
        path, query = address.path, parse_qs(address.query)
        if path.startswith("/blobs/"):
            return self._blob(path.split("/")[2], body)
        match = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|refs)(?:/([^/]+))?)?", path)
        match = match or re.fullmatch(r"/datasets/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path)
        if match is None:  # what else the library may look for, about itself
            return self._error(404, "NotFound", f"the stand-in knows no {path}")
        name, kind, revision = match[1], match[2] or "revision", unquote(match[3]) if match[3] else "main"
        self.hub.asked.append(f"{self.command} {kind}" + (f" {Path(match[4]).name}" if kind == "resolve" else ""))
        repository = self.hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or repository.private and not known:
            return self._error(404 if known else 401, "RepoNotFound", "Repository not found")
        if kind == "refs":
            refs = [
                {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": commit}
                for ref, commit in repository.refs.items()
            ]
            return self._json({"branches": refs, "tags": [], "converts": []})
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = repository.commits[commit]
        if kind == "revision":
            return self._json({"id": name, "sha": commit, "private": repository.private, "gated": repository.gated})
        if kind == "tree":
            return self._tree(path, files, int(query.get("cursor", ["0"])[0]))
        if repository.gated and not known:
            return self._error(401, "GatedRepo", f"Access to dataset {name} is restricted.")
        content = files[unquote(match[4])]
        digest = hashlib.sha256(content).hexdigest()
        where = f"{self.hub.store}/blobs/{digest}"
        self._send(
            302,
            body=False,
            Location=where,
            X_Repo_Commit=commit,
            X_Linked_Size=str(len(content)),
            X_Linked_Etag=f'"{digest}"',
        )
        return None

    def _tree(self, path: str, files: dict[str, bytes], start: int) -> None:
        if self.hub.lost:
            self.hub.lost -= 1
            return self._send(503, body=False)
        folders = sorted({str(folder) for name in files for folder in Path(name).parents if str(folder) != "."})
        entries: list[dict[str, Any]] = [
            {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in folders
        ]
        for name, content in files.items():
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append({"type": "file", "path": name, "size": len(content), "oid": "0" * 40, "lfs": lfs})
        stop = start + PAGE
        more = (
            {"Link": f'<{self.hub.url}{path}?recursive=True&cursor={stop}>; rel="next"'} if stop < len(entries) else {}
        )
        return self._json(entries[start:stop], **more)

    def _blob(self, digest: str, body: bool) -> None:
        held = {
            hashlib.sha256(data).hexdigest(): (name, data)
            for r in self.hub.repositories.values()
            for c in r.commits.values()
            for name, data in c.items()
        }
        path, content = held[digest]
        name, wanted = Path(path).name, self.headers.get("Range", "").removeprefix("bytes=")
        self.hub.asked.append(f"{self.command} blob {name} {wanted}".strip())
        if name in self.hub.failing:
            return self._send(500, body=False)
        start = int(wanted.rstrip("-") or 0)
        ranged = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if wanted else {}
        cut = None
        if body and self.hub.broken[name] > 0:
            self.hub.broken[name] -= 1
            cut = (len(content) - start) // 2
        return self._send(
            206 if wanted else 200,
            content[start:],
            body=body,
            part=cut,
            ETag=f'"{digest}"',
            Accept_Ranges="bytes",
            **ranged,
        )


@pytest.fixture
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The stand-in, and the library's settings as HF_ENDPOINT and HF_HOME would have made them when it was imported."""
    standing = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", standing.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", standing.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "SSL_BENCH_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    yield standing
    standing.stop()


@pytest.fixture
def split(
    hub: Callable[..., Path], images_of: Callable[..., np.ndarray], tmp_path: Path
) -> Callable[..., dict[str, bytes]]:
    """Files of one split in the hub's layout, by name: ``count`` images of four classes."""

    def make(name: str, count: int = 8, seed: int = 0, labelled: bool = True, **more: Any) -> dict[str, bytes]:
        labels = [at % 4 for at in range(count)] if labelled else [-1] * count
        folder = tmp_path / "made"
        shutil.rmtree(folder, ignore_errors=True)
        hub(folder, name, images_of(count, seed=seed), labels, NAMES, **more)
        return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}

    return make


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "root").mkdir()
    return Places(tmp_path / "cache", tmp_path / "root", 12)


def within(folder: str, *parts: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for files in parts for name, data in files.items()}


def find(source: str, places: Places, **more: Any) -> RawSet:
    return open_source(SourceSpec(source=source, **more), places)


def counts(source: RawSet) -> dict[str, int]:
    return {name: len(one) for name, one in source.splits.items()}


def seen(images: Any) -> dict[bytes, int]:
    """Pixels to label of every image of a set."""
    return {image.tobytes(): int(label) for image, label in zip(images.pixels[images.rows], images.labels, strict=True)}


# ---- from a name to images
# ---------------------------------------------------------------------------------------------------------


def test_a_set_is_downloaded_and_read_whole(online: Hub, split: Any, images_of: Any, tmp_path: Path) -> None:
    files = within("data", split("train", 40, parts=3), split("test", 8, seed=1)) | {
        "README.md": b"# four",
        "old.parquet/script.py": b"pass",
    }
    commit = online.push(files)
    told: list[tuple[str, int, int]] = []
    data: Data = load(
        parse(DataSpec, f"hf:{REPOSITORY}", "data"), cache=tmp_path / "cache", progress=lambda *one: told.append(one)
    )
    (labelled,) = data.evaluate
    expected = {
        seed: {image.tobytes(): at % 4 for at, image in enumerate(images_of(count, seed=seed))}
        for seed, count in ((0, 40), (1, 8))
    }
    assert seen(labelled.train) | seen(labelled.validation) == expected[0] and seen(labelled.test) == expected[1]
    assert labelled.test.classes == tuple(NAMES) and data.size == 12
    assert labelled.name == data.pretrain.name == f"hf:{REPOSITORY}@{commit[:7]}"
    assert any(f"is revision {commit}, main now; hf:{REPOSITORY}@{commit} pins it" in note for note in data.notes)
    assert online.fetched() == sorted(Path(name).name for name in files if name.startswith("data/"))
    bytes_told = [(done, total) for what, done, total in told if what.startswith(f"downloading hf:{REPOSITORY}")]
    whole = sum(len(content) for name, content in files.items() if name.startswith("data/"))
    assert bytes_told[-1] == (whole, whole) and bytes_told == sorted(bytes_told) and len(bytes_told) > 4


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        ("", {"train-00000-of-00001.parquet": "train", "test-00000-of-00001.parquet": "test"}),
        (
            "",
            {
                "data/train-00000-of-00001-a09b74b3ef9c3b56.parquet": "train",
                "data/valid-00000-of-00001-70d52db3c749a935.parquet": "validation",
            },
        ),
        (
            "plain_text",
            {"plain_text/train-00000-of-00001.parquet": "train", "plain_text/test-00000-of-00001.parquet": "test"},
        ),
        (
            "default",
            {
                "default/train/0000.parquet": "train",
                "default/validation/0000.parquet": "validation",
                "more/test.parquet": "",
            },
        ),
        ("", {"train/0000.parquet": "train", "test/0000.parquet": "test"}),
        ("", {"data/train/a.parquet": "train", "data/test/b.parquet": "test"}),
        ("", {"everything.parquet": "train"}),
        ("", {"data/train.parquet": "train", "data/test.parquet": "test", "index.parquet": ""}),
    ],
)
def test_layouts_of_the_hub_and_of_its_copies(
    online: Hub, split: Any, places: Places, config: str, layout: dict[str, str]
) -> None:
    assert places.root is not None
    sizes = {"train": 8, "test": 4, "validation": 5, "": 3}
    files = {
        name: next(iter(split("train", sizes[of], seed=at).values())) for at, (name, of) in enumerate(layout.items())
    }
    expected = {of: sizes[of] for of in layout.values() if of}
    assert counts(find(f"hf:{REPOSITORY}@{online.push(files)}", places)) == expected
    for name, content in files.items():
        (places.root / name).parent.mkdir(parents=True, exist_ok=True)
        (places.root / name).write_bytes(content)
    assert counts(find(f"parquet:{places.root / config}", places)) == expected


def test_only_the_splits_needed_are_downloaded(online: Hub, split: Any, places: Places) -> None:
    files = within("data", split("train"), split("test", 4), split("validation", 5), split("extra", 6))
    online.push(files)
    found = find(f"hf:{REPOSITORY}", places)
    assert counts(found) == {"train": 8, "test": 4}
    assert online.fetched() == ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    assert any("its validation split is not downloaded" in note for note in found.notes)
    assert any(
        "1 Parquet files of no known split are not used: data/extra-00000-of-00001.parquet" in note
        for note in found.notes
    )
    online.push(files | within("data", split("test", 4, labelled=False)))
    assert counts(find(f"hf:{REPOSITORY}", places)) == {"train": 8, "test": 4, "validation": 5}
    assert online.fetched() == ["test-00000-of-00001.parquet", "validation-00000-of-00001.parquet"], (
        "and train is there from before"
    )


def test_what_cannot_be_remembered_is_asked_again(online: Hub, split: Any, places: Places) -> None:
    commit = online.push(split("train"))
    places.cache.mkdir()
    (places.cache / "hub").write_text("in the way")
    for _ in range(2):
        online.asked.clear()
        assert counts(find(f"hf:{REPOSITORY}@{commit}", places)) == {"train": 8} and "GET tree" in online.asked


def test_columns_that_are_named(online: Hub, split: Any, places: Places) -> None:
    bare = split("test", 4, labelled=False, extra={"kind": ["y"] * 4})
    online.push(within("data", split("train", extra={"kind": ["x", "y"] * 4}), bare, split("validation", 5)))
    found = find(f"hf:{REPOSITORY}", places, target="kind")
    assert found.classes == ("x", "y") and counts(found) == {"train": 8, "test": 4}, (
        "whether test has labels is asked of that column"
    )
    assert any("labels from 'kind'; not used: 'label'" in note for note in found.notes)
    with pytest.raises(DataError, match=r"no column 'knid' \(target: knid\); did you mean 'kind'"):
        find(f"hf:{REPOSITORY}", places, target="knid")


def test_a_column_of_groups(online: Hub, split: Any, places: Places) -> None:
    online.push(split("train", 4, extra={"who": ["x", "y", "x", "z"]}))
    groups = find(f"hf:{REPOSITORY}", places, group="who", test=0.5).splits["train"].groups
    assert groups is not None and groups.tolist() == [0, 1, 0, 2]


# ---- revisions
# ---------------------------------------------------------------------------------------------------------------------


def test_a_commit_is_asked_for_once(online: Hub, split: Any, places: Places) -> None:
    first = online.push(split("train", 8))
    online.push(split("train", 12, seed=1))
    found = find(f"hf:{REPOSITORY}@{first}", places)
    assert counts(found) == {"train": 8} and found.name == f"hf:{REPOSITORY}@{first[:7]}" and found.notes == ()
    online.asked.clear()
    assert counts(find(f"hf:{REPOSITORY}@{first}", places)) == {"train": 8} and online.asked == []
    online.stop()
    assert counts(find(f"hf:{REPOSITORY}@{first}", places)) == {"train": 8}


def test_a_branch_is_followed_and_without_the_network_its_newest_copy_serves(
    online: Hub, split: Any, tmp_path: Path
) -> None:
    def get(source: str) -> Data:
        return load(parse(DataSpec, {"source": source, "test": 0.25}, "data"), cache=tmp_path / "cache")

    first = online.push(split("train", 40, seed=0))
    before = get(f"hf:{REPOSITORY}")
    second = online.push(split("train", 40, seed=1))
    after = get(f"hf:{REPOSITORY}@main")
    assert before.pretrain.name.endswith(first[:7]) and after.pretrain.name.endswith(second[:7])
    assert before.pretrain.fingerprint != after.pretrain.fingerprint
    pinned = get(f"hf:{REPOSITORY}@{first}")
    assert pinned.pretrain.fingerprint == before.pretrain.fingerprint and pinned.pretrain.name == before.pretrain.name
    online.asked.clear()
    assert get(f"hf:{REPOSITORY}@{second}").pretrain.fingerprint == after.pretrain.fingerprint and online.asked == []
    online.stop()
    alone = get(f"hf:{REPOSITORY}")
    assert alone.pretrain.fingerprint == after.pretrain.fingerprint
    assert any(
        f"is revision {second}, the newest copy of main here, for the hub could not be asked (Connect" in note
        for note in alone.notes
    )
    assert get(f"hf:{REPOSITORY}@{first}").pretrain.fingerprint == before.pretrain.fingerprint


def test_a_hub_that_is_down_or_switched_off_counts_as_out_of_reach(
    online: Hub,
    split: Any,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    online.push(split("train"))
    find(f"hf:{REPOSITORY}", places)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits between tries
    online.lost = 100
    assert any("503" in note for note in find(f"hf:{REPOSITORY}", places).notes)
    online.lost = 0
    assert not any("could not be asked" in note for note in find(f"hf:{REPOSITORY}", places).notes)
    online.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert any("offline mode" in note for note in find(f"hf:{REPOSITORY}", places).notes) and online.asked == []


def test_without_the_network_and_without_a_copy(online: Hub, split: Any, places: Places) -> None:
    commit = online.push(split("train", parts=2))
    online.failing.add("train-00001-of-00002.parquet")
    with pytest.raises(
        DataError, match="train-00001-of-00002.parquet could not be downloaded .*500.*goes on from there"
    ):
        find(f"hf:{REPOSITORY}", places)
    online.stop()
    with pytest.raises(
        DataError,
        match=rf"1 of the 2 Parquet files of hf:{REPOSITORY}@{commit[:7]} .* are not in .*hf, and .* is out of reach",
    ):
        find(f"hf:{REPOSITORY}", places)
    with pytest.raises(
        DataError,
        match=r"hf:toys/other: http://127.0.0.1:\d+ is out of reach \(Connect.*'main' of it is not in .*hf; run once",
    ):
        find("hf:toys/other", places)


def test_what_another_program_downloaded_is_used(online: Hub, split: Any, places: Places) -> None:
    from huggingface_hub import snapshot_download

    commit = online.push(within("plain_text", split("train"), split("test", 4)) | {"README.md": b""})
    snapshot_download(REPOSITORY, repo_type="dataset")
    online.stop()
    found = find(f"hf:{REPOSITORY}", places)
    assert counts(found) == {"train": 8, "test": 4} and commit in found.notes[0]
    assert find(f"hf:{REPOSITORY}@{commit}", places).notes == ()


def test_a_revision_that_is_not_there(online: Hub, split: Any, places: Places) -> None:
    online.push(split("train"))
    online.push(split("train"), ref="version-1")
    with pytest.raises(
        DataError,
        match="hf:toys/four has no revision 'versoin-1'; give a commit hash, tag or branch; did you mean 'version-1'",
    ):
        find(f"hf:{REPOSITORY}@versoin-1", places)
    with pytest.raises(DataError, match=f"no revision '{'0' * 40}'.*known are: main, version-1"):
        find(f"hf:{REPOSITORY}@{'0' * 40}", places)


# ---- configs and conversions
# -------------------------------------------------------------------------------------------------------


def test_one_of_several_configs_is_to_be_chosen(online: Hub, split: Any, places: Places) -> None:
    files = (
        within("small", split("train", 8), split("test", 4))
        | within("large/data", split("train", 12, seed=1))
        | split("train", 16, seed=2)
    )
    commit = online.push(files)
    with pytest.raises(
        DataError, match=r"hf:toys/four has several configs: large, small, \.; choose one, as hf:toys/four:large"
    ):
        find(f"hf:{REPOSITORY}", places)
    assert online.fetched() == []
    assert {name: counts(find(f"hf:{REPOSITORY}:{name}", places)) for name in ("small", "large", ".", "large/")} == {
        "small": {"train": 8, "test": 4},
        "large": {"train": 12},
        ".": {"train": 16},
        "large/": {"train": 12},
    }
    assert find(f"hf:{REPOSITORY}@{commit}:small", places).name == f"hf:{REPOSITORY}@{commit[:7]}:small"
    with pytest.raises(DataError, match="no config .* is called 'smal'; did you mean 'small'"):
        find(f"hf:{REPOSITORY}:smal", places)


def test_the_hub_s_conversion_serves_where_there_is_no_parquet(online: Hub, split: Any, places: Places) -> None:
    by_hand = "hf download toys/four --repo-type dataset"
    plain = online.push({"train.zip": b"PK", "README.md": b""})
    with pytest.raises(
        DataError, match=rf"holds no Parquet files, and the hub has not converted it.*{by_hand}.*folder:DIR"
    ):
        find(f"hf:{REPOSITORY}", places)
    converted = online.push(
        within("default/train", {"0000.parquet": next(iter(split("train").values()))}), ref="refs/convert/parquet"
    )
    found = find(f"hf:{REPOSITORY}", places)
    assert counts(found) == {"train": 8} and found.name == f"hf:{REPOSITORY}@{converted[:7]}"
    assert any("the hub's own conversion of it is used (refs/convert/parquet)" in note for note in found.notes)
    assert (
        counts(find(f"hf:{REPOSITORY}@refs/convert/parquet", places))
        == counts(find(f"hf:{REPOSITORY}@{converted}", places))
        == {"train": 8}
    )
    with pytest.raises(
        DataError, match=f"@{plain} holds no Parquet files, and the hub converts only the newest.*{by_hand}"
    ):
        find(f"hf:{REPOSITORY}@{plain}", places)
    online.stop()
    assert find(f"hf:{REPOSITORY}", places).name == found.name


def test_a_conversion_of_the_beginning_is_refused(online: Hub, split: Any, places: Places) -> None:
    online.push({"train.zip": b"PK"})
    one = next(iter(split("train").values()))
    online.push(
        {"default/partial-train/0000.parquet": one, "default/test/0000.parquet": one}, ref="refs/convert/parquet"
    )
    with pytest.raises(DataError, match="converted only the beginning of it .default/partial-train."):
        find(f"hf:{REPOSITORY}", places)
    assert online.fetched() == []


def test_what_the_files_lack_is_said(online: Hub, split: Any, places: Places) -> None:
    online.push(within("data", split("test"), split("train_small")))
    with pytest.raises(
        DataError, match="hf:toys/four has no train split; .*data/test-00000-of-00001.parquet, data/train_small"
    ):
        find(f"hf:{REPOSITORY}", places)

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": ["a"]}), places.cache.parent / "text.parquet")
    online.push({"train.parquet": (places.cache.parent / "text.parquet").read_bytes()})
    with pytest.raises(DataError, match="train.parquet has no image column .*its columns: text"):
        find(f"hf:{REPOSITORY}", places)


# ---- names, tokens, disks, broken downloads
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "cifar10",
        "a/b/c",
        "a/",
        "/b",
        "a/b@",
        "a/b:",
        "a/b@x@y",
        "a/b:c:d",
        "a b/c",
        "a/b--c",
        "a/.b",
        "https://huggingface.co/a/b",
    ],
)
def test_a_malformed_name_asks_nobody(online: Hub, places: Places, name: str) -> None:
    with pytest.raises(DataError, match=f"hf:{re.escape(name)} is not the name of a set on the hub"):
        find(f"hf:{name}", places)
    with pytest.raises(DataError, match=r"unknown source 'hf'; write hf:OWNER/NAME\[@REVISION\]\[:CONFIG\]"):
        find("hf", places)
    assert online.asked == []


def test_a_missing_or_private_set(online: Hub, split: Any, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    online.push(split("train"))
    online.repositories[REPOSITORY].private = True
    for name in (REPOSITORY, "toys/fuor"):
        with pytest.raises(
            DataError,
            match=f"shows no data set '{name}'; check the spelling .*private give a token, in HF_TOKEN .*none is found",
        ):
            find(f"hf:{name}", places)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DataError, match="the one found has no access"):
        find(f"hf:{REPOSITORY}", places)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert counts(find(f"hf:{REPOSITORY}", places)) == {"train": 8}
    with pytest.raises(DataError, match="shows no data set 'toys/fuor'; check the spelling"):
        find("hf:toys/fuor", places)


def test_a_gated_set(online: Hub, split: Any, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    online.push(split("train"))
    online.repositories[REPOSITORY].gated = True
    with pytest.raises(
        DataError,
        match=r"hf:toys/four is gated: ask for access on http.*/datasets/toys/four, and give a token, in HF_TOKEN",
    ):
        find(f"hf:{REPOSITORY}", places)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert counts(find(f"hf:{REPOSITORY}", places)) == {"train": 8}


def test_a_dropped_connection_is_taken_up_where_it_broke(
    online: Hub,
    split: Any,
    places: Places,
    images_of: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from ssl_bench.data.packs.decode import decode

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 256)  # the library keeps whole chunks
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    online.push(split("train", 40))
    online.broken["train-00000-of-00001.parquet"] = 1
    told: list[tuple[int, int]] = []
    places = Places(
        places.cache, None, 12, lambda what, done, total: told.append((done, total)) if "downloading" in what else None
    )
    reader = find(f"hf:{REPOSITORY}", places).splits["train"].reader
    stored = [decode(item, 12)[0] for items in reader.items([(0, 40)]) for item in items]
    assert np.array_equal(np.stack(stored), images_of(40))
    first, second = (line for line in online.asked if line.startswith("GET blob"))
    assert first == "GET blob train-00000-of-00001.parquet" and re.fullmatch(
        r"GET blob train-00000-of-00001.parquet [1-9]\d+-", second
    )
    assert told == sorted(told) and told[-1][0] == told[-1][1] > 0


def test_a_download_that_failed_goes_on_with_what_is_missing(online: Hub, split: Any, places: Places) -> None:
    online.push(split("train", 12, parts=3))
    online.failing.add("train-00001-of-00003.parquet")
    with pytest.raises(DataError, match="train-00001-of-00003.parquet could not be downloaded"):
        find(f"hf:{REPOSITORY}", places)
    assert online.fetched() == ["train-00000-of-00003.parquet", "train-00001-of-00003.parquet"]
    online.failing.clear()
    assert counts(find(f"hf:{REPOSITORY}", places)) == {"train": 12}
    assert online.fetched() == ["train-00001-of-00003.parquet", "train-00002-of-00003.parquet"]


def test_a_full_disk_is_told_before_anything_is_downloaded(
    online: Hub, split: Any, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = split("train")
    online.push(files)
    usage, spare = shutil.disk_usage(places.cache.parent), 64 << 20
    size = sum(map(len, files.values()))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=size + spare - 1))
    with pytest.raises(
        DataError, match=r"hf:toys/four takes \d\.\d KB in .*hf, where 67 MB are free; make room, or set HF_HOME"
    ):
        find(f"hf:{REPOSITORY}", places)
    assert online.fetched() == []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=size + spare))
    assert counts(find(f"hf:{REPOSITORY}", places)) == {"train": 8}


# ---- copies and the environment
# ----------------------------------------------------------------------------------------------------


def test_a_copy_below_the_data_root_comes_first(online: Hub, split: Any, places: Places) -> None:
    assert places.root is not None
    commit = online.push(split("train", 12))
    for name, content in within("toys/four/plain_text", split("train"), split("validation", 4)).items():
        (places.root / name).parent.mkdir(parents=True, exist_ok=True)
        (places.root / name).write_bytes(content)
    found = find(f"hf:{REPOSITORY}", places)
    assert counts(found) == {"train": 8, "validation": 4} and found.name == f"hf:{REPOSITORY} (copy)"
    assert f"is read from {REPOSITORY}, below the data root, which does not tell its revision" in found.notes[0]
    assert online.asked == [] and counts(find(f"hf:{REPOSITORY}:plain_text", places)) == {"train": 8, "validation": 4}
    assert counts(find(f"hf:{REPOSITORY}@{commit}", places)) == {"train": 12}


def test_the_library_s_environment_is_honoured(online: Hub, split: Any, tmp_path: Path) -> None:
    commit = online.push(split("train", 40) | split("test", 8))
    program = (
        "from ssl_bench.data import load; from ssl_bench.spec.data import DataSpec; import sys\n"
        "data = load(DataSpec.model_validate(sys.argv[1])); print(data.pretrain.name, len(data.pretrain)); "
        "print(*data.notes)"
    )
    where = {"HF_ENDPOINT": online.url, "HF_HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    where["TQDM_POSITION"] = "-1"  # the library shows its bars without a terminal, too

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **where, **more}
        return subprocess.run(
            [sys.executable, "-c", program, f"hf:{REPOSITORY}"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )

    first = run()
    assert first.stdout.startswith(f"hf:{REPOSITORY}@{commit[:7]} 36\n"), first.stderr
    assert (tmp_path / "home" / "hub" / "datasets--toys--four").is_dir()
    online.asked.clear()
    second = run(HF_HUB_OFFLINE="1")
    assert second.stdout.startswith(f"hf:{REPOSITORY}@{commit[:7]} 36\n") and "offline mode" in second.stdout, (
        second.stderr
    )
    assert online.asked == [] and "%|" not in first.stderr, "the library's own bars stay away"
