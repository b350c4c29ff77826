"""The records of a study, and the tables that several sections share."""

from __future__ import annotations

from collections.abc import Mapping

from lovasz_repro.analysis import stats
from lovasz_repro.analysis.claims import claims
from lovasz_repro.analysis.decide import decisions
from lovasz_repro.analysis.decompose import decomposition
from lovasz_repro.analysis.headline import headline
from lovasz_repro.analysis.prevalence import prevalence_gains
from lovasz_repro.analysis.scores import Scores
from lovasz_repro.data.voc import CATEGORIES
from lovasz_repro.records import Records


class Study:
    """The records of a study, its files by path, and its tables.

    of_voc: whether the categories are the paper's: only then its values stand beside ours.
    comparable: whether any loss can be compared to the reference.
    """

    def __init__(self, records: Records, files: Mapping[str, bytes]) -> None:
        self.records, self.files = records, files
        self.scores = Scores(records)
        self.claims = claims(self.scores)
        self.differences = stats.mean_differences(self.scores)
        self.headline = headline(self.scores)
        self.parts = decomposition(self.scores)
        self.choices = decisions(self.scores)
        self.prevalence = prevalence_gains(self.scores)
        classes = records.study.get("config", {}).get("data", {}).get("classes")
        self.of_voc = classes is None or classes == list(CATEGORIES)
        self.comparable = bool(self.differences["difference"].notna().any())
