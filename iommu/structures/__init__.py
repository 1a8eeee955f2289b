"""The tables software builds in memory (spec chapter 9), one declaration each."""

from iommu.structures.context import ContextEntry, RootEntry, TranslationType
from iommu.structures.first_stage import (
    FirstStage1GPage,
    FirstStage2MPage,
    FirstStage4KPage,
    FirstStageEntry,
    FirstStageTable,
)
from iommu.structures.interrupt import (
    CompatibilityAddress,
    CompatibilityData,
    DeliveryMode,
    InterruptEntry,
    PostedInterruptDescriptor,
    PostedInterruptEntry,
    RemappableAddress,
    RemappableData,
    RemappedInterruptEntry,
    SourceValidation,
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
    "CompatibilityAddress",
    "CompatibilityData",
    "ContextEntry",
    "DeliveryMode",
    "FirstStage1GPage",
    "FirstStage2MPage",
    "FirstStage4KPage",
    "FirstStageEntry",
    "FirstStageTable",
    "InterruptEntry",
    "PasidDirectoryEntry",
    "PasidEntry",
    "PasidTranslationType",
    "PostedInterruptDescriptor",
    "PostedInterruptEntry",
    "RemappableAddress",
    "RemappableData",
    "RemappedInterruptEntry",
    "RootEntry",
    "ScalableContextEntry",
    "ScalableRootHalf",
    "SecondStage1GPage",
    "SecondStage2MPage",
    "SecondStage4KPage",
    "SecondStageEntry",
    "SecondStageTable",
    "SourceValidation",
    "TranslationType",
]
