"""What lies in a folder and below: images, files that are none, and entries that cannot be read."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from ssl_bench.data.packs.decode import register_plugins
from ssl_bench.errors import DataError

#: extensions of images, whatever opens them here; only those that an installed decoder opens are read
_IMAGES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".jpx",
        ".avif",
        ".avifs",
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
        ".tga",
        ".qoi",
    )
)
#: extensions of what commonly lies beside images; a folder of nothing else is no class
_NO_IMAGES = frozenset(
    (
        ".txt",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".md",
        ".rst",
        ".html",
        ".htm",
        ".css",
        ".js",
        ".log",
        ".py",
        ".ipynb",
        ".sh",
        ".m",
        ".ini",
        ".cfg",
        ".toml",
        ".db",
        ".lnk",
        ".url",
        ".pdf",
        ".doc",
        ".docx",
        ".xls",
        ".xlsx",
        ".ppt",
        ".pptx",
        ".mov",
        ".mp4",
        ".avi",
        ".mkv",
        ".webm",
        ".wav",
        ".mp3",
        ".aae",
        ".xmp",
        ".parquet",
        ".pkl",
        ".pt",
        ".pth",
        ".ckpt",
        ".safetensors",
        ".onnx",
    )
)
#: what systems put into folders of their own accord
_JUNK_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
_JUNK_FOLDERS = frozenset(
    ("__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information", "__pycache__")
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")
_LONGEST_EXTENSION = 12
_PLUGINS = {
    ".heic": "pillow-heif",
    ".heif": "pillow-heif",
    ".hif": "pillow-heif",
    ".jxl": "pillow-jxl-plugin",
    ".avif": "pillow-avif-plugin",
}


@dataclass
class Folder:
    """One folder; what lies deeper is in ``folders``.

    Attributes
    ----------
    images : names of the image files directly in it.
    folders : its folders by name, sorted; hidden ones and those of systems are left out.
    hidden : folders whose names begin with a dot and that hold images directly.
    left_out : files that are no images, counted by extension ("" for none).
    unreadable : entries that should be images or folders of images and cannot be read, with the reason.
    odd : entries that are no files: named pipes, sockets, devices, links to a folder that is read already, with what
        they are.
    count : images in it and below.
    """

    path: Path
    images: list[str] = field(default_factory=list)
    folders: dict[str, Folder] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: dict[Path, str] = field(default_factory=dict)
    odd: dict[Path, str] = field(default_factory=dict)
    hidden: list[Path] = field(default_factory=list)
    count: int = 0

    def below(self) -> Iterator[Folder]:
        """This folder and all below it."""
        waiting = [self]
        while waiting:
            folder = waiting.pop()
            yield folder
            waiting.extend(reversed(folder.folders.values()))

    def files(self) -> list[Path]:
        """Every image in it and below, sorted by path."""
        paths = [folder.path / name for folder in self.below() for name in folder.images]
        depth = len(self.path.parts)
        return sorted(paths, key=lambda file: file.parts[depth:])

    def with_images(self) -> dict[str, Folder]:
        """Its folders that hold images, there or below."""
        return {name: folder for name, folder in self.folders.items() if folder.count}

    def other_files(self) -> Counter[str]:
        """The files that are no images, here and below, by extension."""
        return sum((folder.left_out for folder in self.below()), Counter())

    def lost(self) -> bool:
        """Whether it holds what may be images that cannot be used, there or below: an unknown format, a broken link, no
        permission."""
        return any(folder.unreadable or folder.odd or set(folder.left_out) - _NO_IMAGES for folder in self.below())


@cache
def extensions() -> frozenset[str]:
    """Extensions of the image files that can be opened here, in lower case."""
    register_plugins()
    known = Image.registered_extensions()  # loads PIL's own decoders, which fill OPEN
    return frozenset(extension for extension in _IMAGES if known.get(extension) in Image.OPEN)


def list_folder(path: Path) -> Folder:
    """The tree of ``path``; nothing is opened but files without an extension, whose first bytes tell whether they are
    images.

    Links are followed once: a link to a folder that is read already, or that holds ``path``, is only named. Hidden
    files and folders and those that systems make (``Thumbs.db``, ``__MACOSX``) are left out.

    Raises DataError when ``path`` itself cannot be listed.
    """
    root = Folder(path)
    real = os.path.realpath(path)
    seen = {real}
    order: list[Folder] = []
    links: list[tuple[Folder, str]] = []  # followed last: a folder keeps its own name
    waiting = [(root, real)]
    while waiting or links:
        if waiting:
            folder, place = waiting.pop()
            order.append(folder)
            linked = _read_entries(folder)
            links.extend((folder, name) for name in sorted(linked))
            wanted = [
                (folder, name, f"{place.rstrip(os.sep)}{os.sep}{name}")
                for name in sorted(folder.folders, reverse=True)
                if name not in linked
            ]
        else:
            folder, name = links.pop(0)
            wanted = [(folder, name, os.path.realpath(folder.path / name))]
        for folder, name, target in wanted:
            if target in seen or real.startswith(f"{target.rstrip(os.sep)}{os.sep}"):
                folder.odd[folder.folders.pop(name).path] = "a link to a folder that is read already"
            else:
                seen.add(target)
                waiting.append((folder.folders[name], target))
    if path in root.unreadable:
        raise DataError(f"{shown(path)} cannot be listed: {root.unreadable[path]}")
    for folder in order:
        folder.images.sort()
        folder.folders = dict(sorted(folder.folders.items()))
    for folder in reversed(order):  # children come after their parents
        folder.count = len(folder.images) + sum(child.count for child in folder.folders.values())
    return root


def _read_entries(folder: Folder) -> set[str]:
    """Sort the entries of one folder into its fields; names of the folders that are links."""
    linked: set[str] = set()
    try:
        with os.scandir(folder.path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = entry.name
                if name.startswith(".") or name.lower() in _JUNK_FILES:
                    if name.lower() not in _JUNK_FOLDERS and _holds_images(folder.path / name):
                        folder.hidden.append(folder.path / name)
                    continue
                extension = os.path.splitext(name)[1].lower()
                here = folder.path / name
                try:
                    is_link, is_folder, is_file = entry.is_symlink(), entry.is_dir(), entry.is_file()
                    kind = "" if is_folder or is_file else _kind_of(entry.stat().st_mode)
                except OSError as error:
                    if extension not in _NO_IMAGES:
                        folder.unreadable[here] = _why_unreadable(error)
                    continue
                if is_folder:
                    if name.lower() not in _JUNK_FOLDERS:
                        folder.folders[name] = Folder(here)
                        linked |= {name} if is_link else set()
                elif not is_file:
                    folder.odd[here] = kind
                elif extension in extensions() or not extension and _begins_like_an_image(here):
                    if os.access(here, os.R_OK, effective_ids=os.access in os.supports_effective_ids):
                        folder.images.append(name)
                    else:
                        folder.unreadable[here] = "no permission to read it"
                else:
                    folder.left_out[extension] += 1
    except OSError as error:
        folder.unreadable[folder.path] = _why_unreadable(error)
    return linked


def _holds_images(hidden: Path) -> bool:
    """Whether a hidden entry is a folder with files that are images by their names, directly in it."""
    try:
        with os.scandir(hidden) as entries:
            return any(os.path.splitext(entry.name)[1].lower() in extensions() for entry in entries)
    except OSError:  # a file, or no permission
        return False


def _why_unreadable(error: OSError) -> str:
    reasons = {errno.ENOENT: "a link that points nowhere", errno.ELOOP: "a link in a circle"}
    return (
        "no permission to read it"
        if isinstance(error, PermissionError)
        else reasons.get(error.errno or 0, error.strerror or str(error))
    )


def _kind_of(mode: int) -> str:
    kinds = (
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((kind for is_kind, kind in kinds if is_kind(mode)), "no file")


def _begins_like_an_image(file: Path) -> bool:
    try:
        with open(file, "rb") as stream:
            first = stream.read(12)
    except OSError:
        return False
    return first.startswith(_SIGNATURES) or first[:4] == b"RIFF" and first[8:] == b"WEBP"


def shown(path: Path | str) -> str:
    """A path or name as text that can be printed and stored: bytes that are not UTF-8 as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def by_extension(counts: Counter[str], most: int = 6) -> str:
    """ ".heic 12, .txt 3"; the most common first."""
    listed = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    told = [
        f"{shown(name)[:_LONGEST_EXTENSION] if name else 'no extension'} {count:,}" for name, count in listed[:most]
    ]
    return ", ".join(told) + (f" and {len(listed) - most:,} more kinds" if len(listed) > most else "")


def decoder_hint(counts: Counter[str]) -> str:
    """Which package reads what is left out, or nothing."""
    packages = dict.fromkeys(_PLUGINS[name] for name in sorted(counts) if name in _PLUGINS)
    return f"; pip install {' '.join(packages)} reads {'it' if len(packages) == 1 else 'them'}" if packages else ""


def some(names: Iterable[str], most: int = 5) -> str:
    """The first few names and how many more there are."""
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most:,} more" if len(listed) > most else "")


def is_file(path: Path) -> bool:
    """Whether a path is that of a file; not for text that can be no path."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False
