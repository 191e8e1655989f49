"""The contract of a source: images, images with boxes, or both, under a name that a matrix can write."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar

from ssl_bench.data.places import Places
from ssl_bench.data.readers import RawSet

if TYPE_CHECKING:
    from ssl_bench.data.boxes.raw import RawBoxes


class Source:
    """Where images come from.

    One class in one file, registered by ``--plugin FILE`` or the entry-point group ``ssl_bench.sources``.

    A matrix names it as ``data: NAME`` or ``data: NAME:ARGUMENT``, and a detection evaluator as ``source: NAME``. Its
    code is no part of a cell's id: pixels, labels, groups and boxes are, so that a changed source meets its old records
    only where it gives the same images.

    Attributes
    ----------
    name : what a matrix writes, before the colon.
    argument : what stands after the colon, as messages show it, such as "PATH"; in brackets what may be left out, such
        as "[SPLIT]"; "" where the name stands alone.
    images, boxes : what images, and what images with boxes, it gives: one line each for ``ssl-bench list sources``; ""
        for none.
    """

    name: ClassVar[str]
    argument: ClassVar[str] = ""
    images: ClassVar[str] = ""
    boxes: ClassVar[str] = ""

    def settings(self, spec: Any) -> Collection[str]:
        """Which of ``labels``, ``image``, ``target``, ``group`` and ``layout`` may be given beside the source; others
        are refused."""
        return ()

    def check(self, spec: Any, places: Places) -> None:
        """Refuse (DataError) what cannot be, such as a path that does not exist. Nothing is opened or downloaded.

        Parameters
        ----------
        spec : ``spec.source`` is the source as written; beside it a ``SourceSpec`` for images, a ``BoxesSpec`` for
            boxes.
        places : where images are looked for and kept.
        """

    def open(self, spec: Any, places: Places) -> RawSet:
        """The images, not decoded yet; their side is to be ``places.size`` only where they are drawn, others are scaled
        when they are packed.

        Raises
        ------
        DataError : nothing there, or nothing that can be used.
        """
        raise NotImplementedError(f"{type(self).__name__} must define open(self, spec, places)")

    def open_boxes(self, spec: Any, places: Places) -> RawBoxes:
        """The images with their boxes, not decoded yet.

        Raises
        ------
        DataError : nothing there, or nothing that can be used.
        """
        raise NotImplementedError(f"{type(self).__name__} must define open_boxes(self, spec, places)")


def after_colon(source: str) -> str:
    """What stands after the first colon of a source as written: "photos/a" of "folder:photos/a", "" without one."""
    return source.partition(":")[2]
