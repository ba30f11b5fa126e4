"""Searches an index: python tools/search.py "un perro" --index=photos.index

The query is a text in any language, or an image (--image=FILE). The command prints the rank, the
cosine similarity and the name of each result. --json=FILE also writes the results to a file.
"""

import os

from absl import flags

from tf_mural import file_io
from tf_mural.cli import app
from tf_mural.errors import UserError

FLAGS = flags.FlagValues()
_QUERY = flags.DEFINE_string(
    "query",
    None,
    "Text to search for. The text may also be given without --query=.",
    flag_values=FLAGS,
)
_IMAGE = flags.DEFINE_string(
    "image",
    None,
    "Image file to search for, instead of a text.",
    flag_values=FLAGS,
)
_INDEX = flags.DEFINE_string(
    "index",
    None,
    "Folder of an index that tools/index.py made. Required.",
    flag_values=FLAGS,
)
_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Model for the query: the workdir of a finished run, a preset, or a public model "
    "(hf:NAME_OR_FOLDER). Default: the model that made the index.",
    flag_values=FLAGS,
)
_K = flags.DEFINE_integer("k", 10, "Number of images to print.", lower_bound=1, flag_values=FLAGS)
_JSON = flags.DEFINE_string("json", None, "JSON file to write the results to.", flag_values=FLAGS)
_BACKEND = app.define_backend(FLAGS)


def main(argv=None):
    """Searches an index. `argv` is a list of flags; None means the command line."""
    app.parse(FLAGS, argv, __doc__, argument="query")
    if bool(_QUERY.value) == bool(_IMAGE.value):
        raise UserError("give a query: either a text in quotation marks, or --image=FILE")
    if not _INDEX.value:
        raise UserError("--index is missing: name the folder that tools/index.py wrote")
    if _IMAGE.value and not file_io.exists(_IMAGE.value):
        similar = file_io.describe_similar(*os.path.split(os.path.abspath(_IMAGE.value)))
        raise UserError(f"--image={_IMAGE.value}: the file does not exist{similar}")
    from tf_mural import search

    index = search.Index(_INDEX.value)
    path = _MODEL.value or index.manifest["model_path"]
    app.import_tensorflow(_BACKEND.value)
    import tf_mural
    from tf_mural import reports

    embedder = tf_mural.Embedder.load(path)
    index.check_model(embedder.fingerprint, path)
    embedder = embedder.truncated(index.dim(embedder.width))
    if _IMAGE.value:
        queries = embedder.embed_images([_IMAGE.value])
    else:
        if not embedder.has_known_tokens([_QUERY.value])[0]:
            print(search.UNKNOWN_QUERY.format(_QUERY.value))
        elif note := embedder.text_notes([_QUERY.value])[0]:
            print(f"note: {note}")
        queries = embedder.embed_texts([_QUERY.value], warn=False)
    (hits,) = index.search(queries, _K.value)
    source = search.open_source(index.manifest["source"])
    rows = [
        [i, f"{hit.score:.3f}", source.display_name(hit.item)]
        for i, hit in enumerate(hits, start=1)
    ]
    print(reports.table(rows, ["rank", "score", "image"]))
    if _JSON.value:
        results = [{"rank": i, "score": h.score, **h.item} for i, h in enumerate(hits, start=1)]
        file_io.write_json(_JSON.value, {"query": _QUERY.value or _IMAGE.value, "results": results})
