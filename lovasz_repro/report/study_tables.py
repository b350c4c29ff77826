"""The records of a study, and the tables that several sections share."""

from __future__ import annotations

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


class Study:
    """The records of a study and its tables, each made when it is first used.

    of_voc: whether the categories are the paper's: only then its values stand beside ours.
    comparable: whether any loss can be compared to the reference.
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        self.scores = Scores(records)
        classes = records.study.get("config", {}).get("data", {}).get("classes")
        self.of_voc = classes is None or classes == list(CATEGORIES)

    @property
    def comparable(self) -> bool:
        return bool(self.differences["difference"].notna().any())

    @cached_property
    def claims(self) -> list[Claim]:
        return claims(self.scores)

    @cached_property
    def differences(self) -> pd.DataFrame:
        return stats.mean_differences(self.scores)

    @cached_property
    def by_presence(self) -> pd.DataFrame:
        return stats.by_presence(self.scores)

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
