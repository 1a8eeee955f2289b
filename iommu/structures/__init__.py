"""The tables software builds in memory (spec chapter 9), one declaration each."""

from iommu.structures.context import ContextEntry, RootEntry, TranslationType
from iommu.structures.first_stage import (
    FirstStage1GPage,
    FirstStage2MPage,
    FirstStage4KPage,
    FirstStageEntry,
    FirstStageTable,
)
from iommu.structures.scalable import (
    PasidDirectoryEntry,
    PasidEntry,
    PasidTranslationType,
    ScalableContextEntry,
    ScalableRootHalf,
)
from iommu.structures.second_stage import (
    SecondStage1GPage,
    SecondStage2MPage,
    SecondStage4KPage,
    SecondStageEntry,
    SecondStageTable,
)

__all__ = [
    "ContextEntry",
    "FirstStage1GPage",
    "FirstStage2MPage",
    "FirstStage4KPage",
    "FirstStageEntry",
    "FirstStageTable",
    "PasidDirectoryEntry",
    "PasidEntry",
    "PasidTranslationType",
    "RootEntry",
    "ScalableContextEntry",
    "ScalableRootHalf",
    "SecondStage1GPage",
    "SecondStage2MPage",
    "SecondStage4KPage",
    "SecondStageEntry",
    "SecondStageTable",
    "TranslationType",
]
