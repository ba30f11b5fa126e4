"""The table of modalities: what a field of a batch is made of.

A field of a source names a tower, and a tower has a modality. The input pipeline, the training
step, the checks of a config, the planner and the export read this table. The readers of the
modalities, which decode the parts of a record, stand in `data.example_builder`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Modality:
    """What the fields of a modality contain.

    Attributes:
        input_key: key of the tower's input in a field of the batch, and name of that input in
            exported models.
        dtype: dtype of the input in a batch.
        part: part of a record that the field is read from: "images", "texts" or "vectors".
        has_language: whether each example of a tower with this modality has a language, under the
            key "language". Rows of stored vectors of drawn texts have it too.
        max_fields: largest number of fields that a source may have.
    """

    input_key: str
    dtype: str
    part: str
    has_language: bool
    max_fields: int


MODALITIES = {
    "image": Modality("pixels", "uint8", part="images", has_language=False, max_fields=1),
    "text": Modality("tokens", "int32", part="texts", has_language=True, max_fields=2),
    # Stored vectors of the drawn image or text, one row per example.
    "vectors": Modality("vectors", "float32", part="vectors", has_language=False, max_fields=8),
}
