"""The records of a study, and the tables that several sections share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.claims import Claim, claims
from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.decompose import decomposition
from lovasz_repro.analysis.headline import headline
from lovasz_repro.analysis.prevalence import prevalence_gains
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.records import Records


@dataclass(frozen=True)
class Study:
    """The records of a study, its files by path, and its tables, each computed once."""

    records: Records
    files: Mapping[str, bytes]

    @cached_property
    def scores(self) -> Scores:
        return Scores(self.records)

    @cached_property
    def claims(self) -> list[Claim]:
        return claims(self.scores)

    @cached_property
    def differences(self) -> pd.DataFrame:
        return stats.mean_differences(self.scores)

    @cached_property
    def headline(self) -> pd.DataFrame:
        return headline(self.scores)

    @cached_property
    def parts(self) -> pd.DataFrame:
        return decomposition(self.scores)

    @cached_property
    def choices(self) -> pd.DataFrame:
        return decisions(self.scores)

    @cached_property
    def prevalence(self) -> pd.DataFrame:
        return prevalence_gains(self.scores)

    @property
    def of_voc(self) -> bool:
        """Whether the categories are the paper's: only then its values stand beside ours."""
        classes = self.records.study.get("config", {}).get("data", {}).get("classes")
        return classes is None or classes == list(CATEGORIES)

    @property
    def comparable(self) -> bool:
        """Whether any loss can be compared to the reference."""
        return bool(self.differences["difference"].notna().any())
