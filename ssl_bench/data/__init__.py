"""Images: sources by name, decoded once, split for training, choosing and testing."""

from ssl_bench.data.images import ImageSet, is_grey
from ssl_bench.data.loading import Data, Labelled, list_sources, load

__all__ = ["Data", "ImageSet", "Labelled", "is_grey", "list_sources", "load"]
