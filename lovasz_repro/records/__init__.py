"""The records of a study: written atomically, and checked when they are read.

    runs/<experiment>/
        study.json              experiment, configuration, grid, data lists, hash
        machine.json            commit, versions, hardware, dates: true, but not reproducible
        tuning.json             per fold and loss: the trials, the learning rate and steps chosen
        base/fold<k>/           network.pt, result.json (mIoU), cost.json
        cells/<category>/<loss>/fold<k>-seed<s>/
            images.csv          one row per val image (`IMAGE_COLUMNS`)
            curve.csv           one row per validation during training (`CURVE_COLUMNS`)
            thresholds.csv      image-IoU over the decision threshold (`THRESHOLD_COLUMNS`)
            predictions.npz     small foreground masks of the val images, packed bits
            cost.json           seconds: differs from run to run
            result.json         written last; a cell is done when, and only when, it is there
            failed.json         in its place when the cell could not be finished: the error
        gallery/                gallery.json and the small pictures that the report shows

A multi-class study has the category `all`, no gallery, and in place of a cell's images.csv,
thresholds.csv and predictions.npz

            classes.csv         one row per val image and label in its truth or prediction
                                (`CLASS_COLUMNS`)

`result.json` holds the SHA-256 of the tables beside it, and every JSON file that of its own values
(`files.CHECKSUM`), so that a truncated or changed file is noticed. `schema` and `agreement` check
what untrusted records hold.
Everything but `machine.json` and `cost.json` has the same bytes when the same study is run again.
"""

from lovasz_repro.records.cells import MEASURES, UNTRAINED, Cell, Grid
from lovasz_repro.records.reading import Records, load
from lovasz_repro.schema import Json

__all__ = ["MEASURES", "UNTRAINED", "Cell", "Grid", "Json", "Records", "load"]
