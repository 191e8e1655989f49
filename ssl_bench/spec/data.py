"""The images of a matrix, as a user writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from ssl_bench.spec.model import MOST_IN_SET, Model, Seed


class SourceSpec(Model):
    """Where images come from: a source name, and for a folder optional labels and test share."""

    short_form: ClassVar[str] = "the name of a source"
    many: ClassVar[str] = "sources"

    source: str = Field(min_length=1)
    labels: str | None = None  #: csv of files and their labels, for a folder
    image: str | None = None  #: column of the images (of their files in a csv); None: chosen by type and name
    target: str | None = None  #: column of the labels; None: chosen by type and name
    group: str | None = None  #: column whose values never straddle two splits
    #: what the folders of folder:PATH are; auto: decided by what they hold
    layout: Literal["auto", "splits", "classes", "flat"] = "auto"
    test: float | None = Field(default=None, gt=0, lt=1)  #: share held out as test where the source has none

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


class Limit(Model):
    """At most this many images of train and of test (class-balanced, the same ones every time)."""

    short_form: ClassVar[str] = "a number of images for train and for test"

    train: int | None = Field(default=None, ge=1, le=MOST_IN_SET)
    test: int | None = Field(default=None, ge=1, le=MOST_IN_SET)


class DataSpec(Model):
    """Images to pretrain on and images to judge on; one source plays both roles unless two are given."""

    short_form: ClassVar[str] = "the name of a source"
    also_taken: ClassVar[tuple[str, ...]] = tuple(SourceSpec.model_fields)  # of the one source that plays both roles

    pretrain: SourceSpec
    evaluate: tuple[SourceSpec, ...] = Field(max_length=100)
    size: int | None = Field(default=None, ge=8, le=1024)  #: side in pixels; None: the source's own
    fit: Literal["crop", "pad", "squash"] = "crop"  #: how a non-square image becomes square
    #: of images of 16 bits a channel or more: what their format can hold, or what the source's training images use
    range: Literal["full", "set"] = "full"
    skip_unreadable: bool = False  #: leave unreadable images out and count them, instead of stopping
    limit: Limit = Limit()
    #: which images of train are held back to choose on; another draw is pretrained on other images too (those it does
    #: not hold back), so its cells are new
    validation_seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _one_source(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"source": value}
        if not isinstance(value, Mapping):
            return value
        value = dict(value)
        of_source = {key: value.pop(key) for key in SourceSpec.model_fields if key in value}
        if of_source:
            if "pretrain" in value or "evaluate" in value:
                raise ValueError("data has both `source` and `pretrain`/`evaluate`; give one of the two forms")
            value |= {"pretrain": of_source, "evaluate": [of_source]}
        elif "pretrain" in value and "evaluate" not in value:
            value["evaluate"] = [value["pretrain"]]
        elif "evaluate" in value and "pretrain" not in value:
            raise ValueError("data.evaluate is given without data.pretrain; name the images to pretrain on")
        elif "pretrain" not in value and set(value) <= {*cls.model_fields, "source"}:
            raise ValueError("names no images; write `source:` with a source such as shapes, cifar10 or folder:PATH")
        if isinstance(value.get("evaluate"), (str, Mapping)):
            value["evaluate"] = [value["evaluate"]]
        if isinstance(value.get("limit"), (int, float, str)):
            value["limit"] = {"train": value["limit"], "test": value["limit"]}
        return value
