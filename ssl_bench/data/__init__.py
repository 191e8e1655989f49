"""Images: sources by name, decoded once, split for training, choosing and testing."""

from ssl_bench.data.images import ImageSet, is_grey
from ssl_bench.data.loading import Data, Labelled, list_sources, load
from ssl_bench.data.places import Places, places_of
from ssl_bench.data.readers import ArrayReader
from ssl_bench.data.sources.folders import FileReader

__all__ = [
    "ArrayReader",
    "FileReader",
    "Data",
    "ImageSet",
    "Labelled",
    "Places",
    "is_grey",
    "list_sources",
    "load",
    "places_of",
]
