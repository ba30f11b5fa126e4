"""Files of the mined negatives of a record set.

tools/mine_negatives.py writes a folder with these files:

manifest.json     the record set, the candidates, the model, the options and a summary
negatives.npy     int32 (n, k): for each record, numbers of records of the candidates, the most
                  similar one first; -1 where a record has fewer than k negatives
scores.npy        float32 (n, k): cosine similarity to the record; -inf for missing negatives
"""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np

from tf_mural import file_io
from tf_mural.errors import UserError

MANIFEST, NEGATIVES, SCORES, SCHEMA = "manifest.json", "negatives.npy", "scores.npy", 1


@dataclasses.dataclass(frozen=True)
class MinedNegatives:
    """Mined negatives as a source of a trainer, see `training_dataset`.

        records = {"captions": "data/own/train",
                   "hard": tf_mural.data.MinedNegatives("data/mined/train", of="captions")}
        dataset = tf_mural.data.training_dataset(records, trainer, batch_size=128)

    Example i of this source is a negative of example i of the source `of`, chosen at random among
    the negatives of its record.

    Attributes:
        folders: folders that tools/mine_negatives.py wrote, or a single folder: one for each record
            set of the source `of`, in any order.
        of: name of the source whose records have these negatives.
    """

    folders: str | os.PathLike | Sequence[str | os.PathLike]
    of: str

    def paths(self) -> list[str]:
        """Returns the list of the folders."""
        is_single = isinstance(self.folders, str | os.PathLike)
        return [os.fspath(f) for f in ([self.folders] if is_single else self.folders)]


def read_mined(folder):
    """Returns the manifest of mined negatives, a dict.

    Raises:
        UserError: the folder has no complete mined negatives.
    """
    path = os.path.join(folder, MANIFEST)
    if not file_io.exists(path):
        raise UserError(f"{folder} has no mined negatives: tools/mine_negatives.py writes them")
    manifest = file_io.read_json(path)
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise UserError(
            f"{path} is not of mined negatives of version {SCHEMA}: mine them again, in another "
            "folder"
        )
    return manifest


def read_negatives(folder, manifest):
    """Returns the array of `NEGATIVES`, int32 (n, k).

    Raises:
        UserError: the file is missing or damaged.
    """
    path = os.path.join(folder, NEGATIVES)
    shape = (manifest["records"]["count"], manifest["options"]["num_negatives"])
    try:
        rows = np.load(io.BytesIO(file_io.read_bytes(path)))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} cannot be read ({error}): mine the negatives again") from error
    size = manifest["candidates"]["count"]
    if rows.shape != shape or not ((rows >= -1) & (rows < size)).all():
        raise UserError(
            f"{path} is damaged: expected numbers below {size} of the shape {shape}, got an array "
            f"of the shape {rows.shape}; mine the negatives again"
        )
    return rows
