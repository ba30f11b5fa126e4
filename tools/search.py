"""Searches an index: python tools/search.py "un perro" --index=photos.index

The query is a text in any language, or --image=FILE. Printed are rank, cosine similarity, and what
was found; --json=FILE writes it too.
"""

import common
from absl import flags

from tf_mural import file_io
from tf_mural.errors import UserError

_QUERY = flags.DEFINE_string("query", None, "The text; also without --query=.")
_IMAGE = flags.DEFINE_string("image", None, "Or a file with an image.")
_INDEX = flags.DEFINE_string("index", None, "Folder of tools/index.py. Required.")
_MODEL = flags.DEFINE_string("model", None, "Of the index. Default: where it was.")
_K = flags.DEFINE_integer("k", 10, "Images to show.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File to write.")
_BACKEND = common.define_backend()


def main():
    if bool(_QUERY.value) == bool(_IMAGE.value):
        raise UserError('say what to look for: "a text", or --image=FILE')
    if not _INDEX.value:
        raise UserError("--index is missing: the folder that tools/index.py wrote")
    from tf_mural import search as searching

    index = searching.Index(_INDEX.value)
    path = _MODEL.value or index.manifest["model_path"]
    common.import_tensorflow(_BACKEND.value)
    import tf_mural
    from tf_mural import reports

    embedder = tf_mural.Embedder.load(path)
    index.check_model(embedder.fingerprint, path)
    if _IMAGE.value:
        queries = embedder.embed_images([_IMAGE.value])
    else:
        if not embedder.has_known_tokens([_QUERY.value])[0]:
            print(common.UNKNOWN.format(_QUERY.value))
        queries = embedder.embed_texts([_QUERY.value])
    (hits,) = index.search(queries, _K.value)
    source = searching.open_source(index.manifest["source"])
    rows = [[i, f"{hit.score:.3f}", source.display_name(hit.item)] for i, hit in enumerate(hits, start=1)]
    print(reports.table(rows, ["rank", "score", "image"]))
    if _JSON.value:
        found = [{"rank": i, "score": h.score, **h.item} for i, h in enumerate(hits, start=1)]
        file_io.write_json(_JSON.value, {"query": _QUERY.value or _IMAGE.value, "found": found})


if __name__ == "__main__":
    common.run(main, argument="query")
