"""Opens a page to search images by a text in any language, or by an image:

    python tools/demo.py --index=photos.index
    python tools/demo.py --records=data/scenes/test --model=runs/tiny/etcl-s0

With --records, or --images=FOLDER, an index is made first, beside the model. The page works without
the internet and listens on this machine alone, unless --host says otherwise.
(pip install -r requirements-demo.txt)
"""

import os
import signal
import socket
import sys

import common
from absl import flags

from tf_mural.errors import UserError

_INDEX = flags.DEFINE_string("index", None, "Folder that tools/index.py wrote.")
_RECORDS = flags.DEFINE_string("records", None, "Or a record set to index first.")
_IMAGES = flags.DEFINE_string("images", None, "Or a folder of images to index first.")
_MODEL = flags.DEFINE_string("model", None, "Of the index. Default: where it was.")
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on; 0.0.0.0 lets everyone in who reaches the machine."
)
_PORT = flags.DEFINE_integer("port", 7860, "Port; 0 takes a free one.", 0, 65535)
_BACKEND = common.define_backend()


def main():
    if sum(map(bool, (_INDEX.value, _RECORDS.value, _IMAGES.value))) != 1:
        raise UserError("say what to search in: one of --index, --records and --images")
    common.require("gradio", "requirements-demo.txt", "the page")
    port = free_port(_HOST.value, _PORT.value)
    from tf_mural import search

    folder, path = _INDEX.value, _MODEL.value
    if folder:
        index = search.Index(folder)
        path = path or index.manifest["model_path"]
    elif not path:
        raise UserError("--model is missing: the workdir of a finished run, or a preset")
    common.import_tensorflow(_BACKEND.value)
    import tf_mural

    embedder = tf_mural.Embedder.load(path)
    if not folder:
        index = indexed(embedder, path)
    index.check_model(embedder.fingerprint, path)
    import demo_page

    page = demo_page.page(embedder, index)
    with common.quietly():
        _, url, _ = page.launch(
            server_name=_HOST.value,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            **demo_page.LAUNCH,
        )
    print(f"{len(index):,} images at {url}  (Ctrl-C ends it)", flush=True)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: sys.exit(0))
    page.block_thread()


def indexed(embedder, path):
    """An index of --records or --images, in a folder of its own beside the model."""
    from tf_mural import search

    if _RECORDS.value:
        source = search.RecordsSource(_RECORDS.value)
    else:
        source = search.FolderSource(_IMAGES.value)
    name = "-".join(os.path.normpath(source.folder).split(os.sep)[-2:])
    here = os.path.isdir(path)  # else it lies on a hub
    beside = path if here else "runs"
    folder = os.path.join(beside, "indexes", f"{name}-{embedder.fingerprint[:8]}")
    search.make_index(
        folder,
        source,
        lambda images: embedder.embed_images(images, progress=False),
        embedder.fingerprint,
        os.path.abspath(path) if here else path,
        embedder.width,
    )
    return search.Index(folder)


def free_port(host, port):
    """The port, or a free one for 0.

    Raises:
        UserError: it is in use, or the host is none of this machine.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be listened on ({error.strerror}): choose another --port, "
                "or 0 for a free one"
            ) from None
        return probe.getsockname()[1]


if __name__ == "__main__":
    common.run(main)
