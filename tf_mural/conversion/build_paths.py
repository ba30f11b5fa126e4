"""Where the files of a conversion lie until it is whole."""

import dataclasses
import os

from tf_mural.data import records


@dataclasses.dataclass(frozen=True)
class Places:
    """Names of files in the folder in which a record set is built.

    Its name is that of the recipe, so that a conversion that was stopped is found again, and so
    that its parts, on several machines perhaps, meet.

    Attributes:
        out_dir: folder of the record sets.
        split: which of them.
        digest: of the recipe.
    """

    out_dir: str
    split: str
    digest: str

    @property
    def folder(self):
        """The record set when it is whole."""
        return os.path.join(self.out_dir, self.split)

    @property
    def building(self):
        """The record set until then."""
        return os.path.join(self.out_dir, f".{self.split}.{self.digest}.tmp")

    @property
    def manifest(self):
        """What is written last into it."""
        return os.path.join(self.building, records.MANIFEST)

    @property
    def replaced(self):
        """A set of the same name, while this one takes its place."""
        return os.path.join(self.out_dir, f".{self.split}.{self.digest}.old.tmp")

    @property
    def lock(self):
        """Locked by every conversion to the split."""
        return os.path.join(self.out_dir, f".{self.split}.lock")

    @property
    def end_lock(self):
        """Locked by whichever part of a conversion makes the set whole."""
        return os.path.join(self.out_dir, f".{self.split}.end.lock")

    @property
    def work(self):
        """All that is not of the record set."""
        return os.path.join(self.building, "work")

    @property
    def excluded(self):
        """What excluded sets are known by."""
        return os.path.join(self.work, "excluded.json")

    @property
    def answered(self):
        """Written when all questions are answered."""
        return os.path.join(self.work, "answered.json")

    def counted(self, number):
        """Written when a unit has passed pass 1."""
        return os.path.join(self.work, f"counted-{number:05d}.json")

    def outcome(self, number):
        """Written when a unit has passed pass 2."""
        return os.path.join(self.work, f"outcome-{number:05d}.npz")

    def shard(self, number, part):
        """A shard of a unit."""
        return os.path.join(self.building, f"unit-{number:05d}-{part:05d}.tfrecord")

    def rows(self, number, question):
        """The start of the names of a unit's rows."""
        return os.path.join(self.work, f"rows-{number:05d}-{question.replace(' ', '-')}")

    def dropped(self, question, part):
        """What a question drops, of one range of keys."""
        return os.path.join(self.work, f"dropped-{question.replace(' ', '-')}-{part:05d}.npy")

    def work_lock(self, name):
        """Locked within the conversion: by a part, or for what is done once."""
        return os.path.join(self.work, f"{name}.lock")
