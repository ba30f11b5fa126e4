"""Converts data sets to record sets.

driver            `convert` and `ensure`, and the passes of a conversion over its work units
units             the jobs of each pass and the result file of each unit
executors         a local process pool, or Apache Beam (`beam`)
filter_config     `FilterConfig`: filters, duplicates, excluded sets, resizing
record_filters    filters that need one record; language identification
corpus_filters    filters that need corpus-wide counts
decontamination   removes records that excluded record sets contain
image_probe       size, grayscale version and resizing of image files (JPEG, PNG, ...)
hashes            64-bit hashes of records, texts and images
ledger            counts of the used and the unused records and other parts of the input
provenance        the recipe of a record set, which identifies an existing record set
extraction        adds vectors that a model computes to a record set
publish           paths, locks and the final rename of a conversion
"""

from tf_mural.conversion.driver import convert, ensure
from tf_mural.conversion.extraction import Extractor, extract
from tf_mural.conversion.filter_config import PAPER, FilterConfig
from tf_mural.conversion.provenance import option_defaults

__all__ = [
    "PAPER",
    "Extractor",
    "FilterConfig",
    "convert",
    "ensure",
    "extract",
    "option_defaults",
]
