"""The name by which tuning.py imports the multi-class setup."""

from lovasz_repro.study.setup import MulticlassSetup

MultiSetting = MulticlassSetup
