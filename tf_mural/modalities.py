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
        has_language: whether each example has a language, under the key "language".
        max_fields: largest number of fields that a source may have.
    """

    input_key: str
    dtype: str
    part: str
    has_language: bool
    max_fields: int

    def batch_spec(self, rows, input_shape):
        """Returns {key: (shape, dtype)} of a field in a batch, without the id.

        Args:
            rows: number of rows of the batch.
            input_shape: shape of the tower's input for one row.
        """
        spec = {self.input_key: ((rows, *input_shape), self.dtype)}
        return spec | ({"language": ((rows,), "int32")} if self.has_language else {})


MODALITIES = {
    "image": Modality("pixels", "uint8", part="images", has_language=False, max_fields=1),
    "text": Modality("tokens", "int32", part="texts", has_language=True, max_fields=2),
    # Stored vectors of the drawn image or text, one row per example.
    "vectors": Modality("vectors", "float32", part="vectors", has_language=False, max_fields=8),
}
