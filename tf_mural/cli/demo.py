"""Serves a web page for searching images by a text in any language, or by another image:

    python tools/demo.py --index=photos.index
    python tools/demo.py --records=data/scenes/test --model=runs/tiny/etcl-s0

With --records or --images=FOLDER, the command first makes an index in the folder of the model. The
page needs no internet connection, and can be opened only on this machine unless --host is set. The
command needs the packages of requirements-demo.txt.
"""

import os
import signal
import socket
import sys

from absl import flags

from tf_mural.cli import app
from tf_mural.errors import UserError

FLAGS = flags.FlagValues()
_INDEX = flags.DEFINE_string(
    "index", None, "Folder of an index that tools/index.py made.", flag_values=FLAGS
)
_RECORDS = flags.DEFINE_string(
    "records",
    None,
    "Record set to make an index of, instead of --index.",
    flag_values=FLAGS,
)
_IMAGES = flags.DEFINE_string(
    "images",
    None,
    "Folder of images to make an index of, instead of --index.",
    flag_values=FLAGS,
)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Model for the queries: the workdir of a finished run, a preset, or a public model "
    "(hf:NAME_OR_FOLDER). Default with --index: the model that made the index.",
    flag_values=FLAGS,
)
_HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Address to listen on; 0.0.0.0 allows access from other machines.",
    flag_values=FLAGS,
)
_PORT = flags.DEFINE_integer(
    "port", 7860, "Port to listen on; 0 selects a free port.", 0, 65535, flag_values=FLAGS
)
_BACKEND = app.define_backend(FLAGS)


def main(argv=None):
    """Serves the page until a signal ends it. `argv` is a list of flags; None: the command line."""
    app.parse(FLAGS, argv, __doc__)
    if sum(map(bool, (_INDEX.value, _RECORDS.value, _IMAGES.value))) != 1:
        raise UserError("name the images to search: one of --index, --records and --images")
    app.require("gradio", "requirements-demo.txt", "the demo page")
    port = _find_port(_HOST.value, _PORT.value)
    from tf_mural import search

    index, model_path = None, _MODEL.value
    if _INDEX.value:
        index = search.Index(_INDEX.value)
        model_path = model_path or index.manifest["model_path"]
    elif not model_path:
        raise UserError("--model is missing: the workdir of a finished run, or a preset")
    app.import_tensorflow(_BACKEND.value)
    import tf_mural

    embedder = tf_mural.Embedder.load(model_path)
    index = index or _make_index(embedder, model_path)
    index.check_model(embedder.fingerprint, model_path)
    embedder = embedder.truncated(index.dim(embedder.width))
    from tf_mural.search import demo_page

    page = demo_page.make_page(embedder, index)
    with app.quietly():
        _, url, _ = page.launch(
            server_name=_HOST.value,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            **demo_page.LAUNCH_OPTIONS,
        )
    print(f"{len(index):,} images at {url}  (Ctrl-C ends the server)", flush=True)
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: sys.exit(0))
    page.block_thread()


def _make_index(embedder, model_path):
    """Makes an index of --records or --images in the folder of the model, and returns it."""
    from tf_mural import public_models, search

    if _RECORDS.value:
        source = search.RecordsSource(_RECORDS.value)
    else:
        source = search.FolderSource(_IMAGES.value)
    name = "-".join(os.path.normpath(source.folder).split(os.sep)[-2:])
    is_local = os.path.isdir(model_path)  # a model that is not in a folder is on a hub
    parent = model_path if is_local else "runs"
    folder = os.path.join(parent, "indexes", f"{name}-{embedder.fingerprint[:8]}")
    search.make_index(
        folder,
        source,
        lambda images: embedder.embed_images(images, progress=False),
        embedder.fingerprint,
        public_models.absolute_name(model_path),
        embedder.width,
    )
    return search.Index(folder)


def _find_port(host, port):
    """Returns `port`, or the number of a free port if `port` is 0.

    Raises:
        UserError: the port is in use, or the host is not an address of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"cannot listen on {host}:{port} ({error.strerror}): choose another --port, or 0 "
                "for a free one"
            ) from None
        return probe.getsockname()[1]
