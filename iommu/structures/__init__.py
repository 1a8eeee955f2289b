"""The tables software builds in memory (spec chapter 9), one declaration each."""

from iommu.structures.context import ContextEntry, RootEntry, TranslationType
from iommu.structures.second_stage import (
    SecondStage1GPage,
    SecondStage2MPage,
    SecondStage4KPage,
    SecondStageEntry,
    SecondStageTable,
)

__all__ = [
    "ContextEntry",
    "RootEntry",
    "SecondStage1GPage",
    "SecondStage2MPage",
    "SecondStage4KPage",
    "SecondStageEntry",
    "SecondStageTable",
    "TranslationType",
]
