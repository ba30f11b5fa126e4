"""Images that do not decode: which, how often, and when it is too much."""

import collections
import dataclasses

import tensorflow as tf

from tf_mural.base import UserError

ATTEMPTS = 8  # records tried in the place of one whose image does not decode
LACKS_TEXT = "a record lacks the text that its index promises"


@dataclasses.dataclass
class Health:
    """What reading for training met. One object serves all sources of a worker.

    Attributes:
        limit: share of the images drawn that may fail; of a thousand if fewer were drawn.
        images_per_step: images that the worker draws for a step.
        folders: of the records, for messages.
        skipped: {place of a record: how often its image did not decode}.
        error: the UserError that ended the reading, which `tf.data` would bury in a traceback.
    """

    limit: float = 0.01
    images_per_step: int = 1
    folders: tuple = ()
    skipped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    error: UserError | None = None

    def check(self, steps):
        """Images skipped so far, as {"skipped_images": n}.

        Args:
            steps: number of steps since the reading began.

        Raises:
            UserError: too many of them were skipped; names the records. Or what else ended the
                reading.
        """
        if self.error:
            raise self.error
        count = sum(self.skipped.values())
        if count > self.limit * max(steps * self.images_per_step, 1000):
            places = list(self.skipped)
            more = f" and {len(places) - 5} more" if len(places) > 5 else ""
            raise UserError(
                f"{count} of the images drawn so far do not decode, above the limit of "
                f"{self.limit:.2%}: {'; '.join(places[:5])}{more}. Convert the data set again, or "
                "raise --config.skip_limit"
            )
        return {"skipped_images": count}

    def explain(self, error):
        """The UserError that an error of `tf.data` stems from, or the error itself."""
        # TensorFlow quotes the bytes that it could not parse, which are no text either.
        damaged = isinstance(error, UnicodeDecodeError) or "Could not parse example" in str(error)
        symptom = "a record is damaged" if damaged else LACKS_TEXT
        if self.error is None and (damaged or LACKS_TEXT in str(error)):
            return UserError(
                f"{symptom}, in {' or '.join(self.folders)}; convert the data set again"
            )
        return self.error or error


def notebook(stream, health):
    """Function of (draw, attempt) that counts the record of that draw as one that does not decode.

    It hands the draw back, so that what comes next waits for it.
    """

    def write(draw, which, unit, attempt):
        number = int(stream.locate(draw, which, unit)[0][0])
        place = stream.sets[int(which[0])].place(number)
        health.skipped[place] += 1
        if attempt == ATTEMPTS:
            health.error = health.error or UserError(
                f"{ATTEMPTS} images in a row do not decode, the last one at {place}; convert the "
                "data set again"
            )
            raise health.error
        return draw[0]

    def note(draw, attempt):
        which, unit = stream.draw(draw[tf.newaxis])
        arguments = [draw[tf.newaxis], which, unit, attempt]
        return tf.ensure_shape(tf.numpy_function(write, arguments, tf.int64), ())

    return note
