"""TensorBoard's event files."""

import contextlib

import tensorflow as tf


class Events:
    """Writes scalars and pictures. What cannot be written is told once; the run goes on.

    Args:
        folder: of the files.
        say: function of a line.
    """

    def __init__(self, folder, say=print):
        self._writer, self._say, self._told = tf.summary.create_file_writer(folder), say, False

    def scalars(self, step, values):
        """{name: number} of a step."""
        with self._writing():
            for key, value in values.items():
                tf.summary.scalar(key, value, step=step)

    def picture(self, step, name, path):
        """A PNG file."""
        image = tf.io.decode_png(tf.io.read_file(path), channels=3)
        with self._writing():
            tf.summary.image(name, image[tf.newaxis], step=step)

    @contextlib.contextmanager
    def _writing(self):
        try:
            with self._writer.as_default():
                yield
            self._writer.flush()
        except tf.errors.OpError as error:
            reason = error.message.splitlines()[0]
            if not self._told:
                self._say(f"TensorBoard's events cannot be written ({reason}): going on without")
            self._told = True
