"""The model card of a preset: what a run left behind, told to those who have the model alone."""

from tf_mural import file_io
from tf_mural.data import records
from tf_mural.errors import UserError

_LIMITS = """\
- It was trained with texts of at most {tokens} tokens; what comes after is cut off.
- Images are stretched to a square: what depends on the aspect ratio is not seen.
- Scores of languages that met no image in training come by way of translations, and are lower.
- A similarity is no probability, and the nearest image is shown also where none fits.
- Captions and translations carry the prejudices of those who wrote them. Nothing was filtered for
  what people or groups may find hurtful beyond what the data sets themselves had done."""


def model_card(name, description, runs=(), config=None):
    """Text of README.md, with the front matter that the hubs read.

    Args:
        name: of the model.
        description: content of model.json, see `build.describe`.
        runs: contents of results.json of the run and of those that it started from, the run first.
        config: content of the run's config.json, or None.

    Returns:
        str: Markdown. The licence of model and data stays for the author to fill in: no file of a
        run knows it.
    """
    results, config = runs[0] if runs else {}, config or {}
    digests = {folder: digest for run in runs for folder, digest in run["data"].items()}
    sets = {folder: _manifest(folder) for folder in digests}
    languages = sorted({code for of in sets.values() for code in (of or {}).get("languages", {})})
    parts = [
        _front_matter(languages),
        f"# {name}\n\n{_what(description, runs)}",
        _use(name),
        _recipe(config),
        _data(digests, sets),
        _scores(results.get("evaluation", {})),
        "## Known limits\n\n" + _LIMITS.format(tokens=description["max_tokens"]),
        "## Licence\n\nModel: (to be filled in by its author)\nData: see the licence of each set "
        "above; the weights are made of them.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(languages):
    listed = "".join(f"- {code}\n" for code in languages)
    block = f"language:\n{listed}" if listed else ""
    return (
        "---\nlibrary_name: keras-hub\npipeline_tag: zero-shot-image-classification\n"
        f"license: other\nlicense_name: to-be-filled-in\n{block}tags:\n- tf_mural\n- multilingual\n"
        "- image-text-retrieval\n---"
    )


def _what(description, runs):
    model = description["model"]
    image, text = model["image"], model["text"]
    sizes = f" of the sizes {tuple(text['sizes'])}" if text.get("sizes") else f"-{text['name']}"
    line = (
        f"An EfficientNet-{image['name'].upper()} at {image['image_size']} px and a BERT{sizes} "
        f"with {description['vocabulary_size']:,} pieces, into one space of "
        f"{model['embedding_dim']} dimensions. Vocabulary {description['vocabulary_hash']}."
    )
    if description.get("pretrained"):
        line += f" Its first weights were those of {description['pretrained']}."
    if runs:
        told = [
            f"{run['stage']} ({run['steps']:,} steps, seed {run['seed']})" for run in runs[::-1]
        ]
        line += f"\n\nStages: {', then '.join(told)}."
        if first := runs[-1]["init"]:
            line += f" The first one started from {first}."
    return line


def _use(name):
    return (
        "## Use\n\n```python\nimport tf_mural\n\n"
        f'embedder = tf_mural.Embedder.load("{name}")  # this folder, or hf://user/{name}\n'
        'scores = embedder.texts(["a dog"]) @ embedder.images(["dog.jpg"]).T\n```'
    )


def _recipe(config):
    if not config:
        return ""
    optimizer = config["optimizer"]
    rows = [
        ("batch", f"{config['batch_size']:,}"),
        ("steps", f"{config['steps']:,}"),
        ("optimizer", optimizer["name"]),
        ("peak learning rate", f"{optimizer['learning_rate']:g}"),
        ("warm-up steps", f"{optimizer['warmup_steps']:,}"),
        ("precision", config.get("precision", "float32")),
    ]
    for term, of in config["terms"].items():
        told = f"{of['loss']}, {of['x']} with {of['y']}, weight {of['weight']:.3g}, "
        told += f"margin {of['margin']:g}, smoothing {of['label_smoothing']:g}"
        rows.append((f"term {term}", told))
    return "## Recipe\n\n" + _table(("", ""), rows)


def _data(digests, sets):
    if not digests:
        return ""
    rows, counts = [], []
    for folder, digest in digests.items():
        manifest = sets[folder]
        if manifest is None:
            rows.append((folder, digest, "no longer there", "", ""))
            continue
        name = f"{manifest['dataset']}/{manifest['split']}"
        numbers = (f"{manifest[key]:,}" for key in ("records", "images", "texts"))
        rows.append((name, digest, *numbers))
        counts.append(
            f"- {name}: " + ", ".join(f"{c} {n:,}" for c, n in manifest["languages"].items())
        )
    table = _table(("data set", "digest", "records", "images", "texts"), rows)
    told = "\n\nTexts by language:\n\n" + "\n".join(counts) if counts else ""
    return "## Data\n\n" + table + told


def _scores(evaluation):
    parts = []
    for name, result in evaluation.items():
        values = result["values"]
        columns = list(dict.fromkeys(key for of in values.values() for key in of))
        rows = [
            (code, *(f"{of[c]:.1f}" if c in of else "-" for c in columns))
            for code, of in values.items()
        ]
        heads = ("", *(column.replace("_", " ") for column in columns))
        parts.append(f"{name} (protocol {result['protocol']}):\n\n{_table(heads, rows)}")
    return "## Scores\n\n" + "\n\n".join(parts) if parts else ""


def _table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _manifest(folder):
    try:
        return records.read_manifest(folder) if file_io.is_folder(folder) else None
    except UserError:
        return None
