"""The model card of a preset, which is written from the files of a run."""

from tf_mural import file_io, public_models
from tf_mural.data import records
from tf_mural.errors import UserError
from tf_mural.losses import LOSSES

_LIMITS = """\
- The model was trained with texts of at most {tokens} tokens; longer texts are truncated.
- Images are resized to a square; therefore the model does not see their aspect ratio.
- Languages without images in the training data are learned from translations only, and their scores
  are lower.
- A similarity is not a probability. A search returns the nearest images even if no image matches.
- Captions and translations contain the prejudices of their authors. Content that may offend people
  or groups was removed only if the authors of the data set removed it."""


def model_card(name, description, runs=(), config=None):
    """Returns the content of README.md, with the front matter that the hubs read.

    The author of the model must fill in the licenses of model and data, because no file of a run
    contains them.

    Args:
        name: name of the model.
        description: content of model.json, see `experiment.describe`.
        runs: contents of the results.json files of the run and of the runs from which its weights
            were initialized, the latest run first.
        config: content of config.json of the run. None: the card has no recipe.

    Returns:
        Markdown, a string.
    """
    results, config = runs[0] if runs else {}, config or {}
    digests = {folder: digest for run in runs for folder, digest in run["data"].items()}
    manifests = {folder: _read_manifest(folder) for folder in digests}
    # The manifests of earlier stages may be missing, because their records may be on another
    # machine. The description of the model names the languages of all stages.
    languages = set(description.get("languages") or ())
    languages.update(*((manifest or {}).get("languages", {}) for manifest in manifests.values()))
    sections = [
        _front_matter(sorted(languages)),
        f"# {name}\n\n{_summary(description, runs)}",
        _usage(name),
        _recipe(config),
        _data(digests, manifests),
        _scores(results.get("evaluation", {})),
        "## Known limits\n\n" + _LIMITS.format(tokens=description["max_tokens"]),
        "## License\n\nModel: (to be filled in by its author)\nData: see the license of each data "
        "set above; the weights were trained on these data sets.",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(languages):
    codes = "".join(f"- {code}\n" for code in languages)
    block = f"language:\n{codes}" if codes else ""
    return (
        "---\nlibrary_name: keras-hub\npipeline_tag: zero-shot-image-classification\n"
        f"license: other\nlicense_name: to-be-filled-in\n{block}tags:\n- tf_mural\n- multilingual\n"
        "- image-text-retrieval\n---"
    )


def _summary(description, runs):
    model = description["model"]
    image, text = model["image"], model["text"]
    summary = (
        f"{_image_encoder(image)} at {image['image_size']} px and {_text_encoder(text)} "
        f"with {description['vocabulary_size']:,} pieces, with a shared embedding space of "
        f"{model['embedding_dim']} dimensions. The hash of the vocabulary is "
        f"{description['vocabulary_hash']}."
    )
    if model.get("towers"):
        summary += f" Its further towers are: {', '.join(model['towers'])}."
    if description.get("pretrained"):
        summary += f" The initial weights were those of {description['pretrained']}."
    if runs:
        stages = [
            f"{run['stage']} ({run['steps']:,} steps, seed {run['seed']})" for run in runs[::-1]
        ]
        summary += f"\n\nStages: {', then '.join(stages)}."
        if first := runs[-1]["init"]:
            summary += f" The first stage started from {first}."
    return summary


def _image_encoder(image):
    backbone = image["backbone"]
    if public_models.is_public(backbone):
        return f"The image encoder of {backbone}"
    return f"An EfficientNet-{backbone.upper()}"


def _text_encoder(text):
    if public_models.is_public(text["backbone"]):
        return f"the text encoder of {text['backbone']}"
    if text.get("sizes"):
        return f"a BERT of the sizes {tuple(text['sizes'])}"
    return f"a BERT-{text['backbone']}"


def _usage(name):
    return (
        "## Usage\n\n```python\nimport tf_mural\n\n"
        f'embedder = tf_mural.Embedder.load("{name}")  # this folder, or hf://user/{name}\n'
        'scores = embedder.embed_texts(["a dog"]) @ embedder.embed_images(["dog.jpg"]).T\n```\n\n'
        "KerasHub loads the same folder after the classes of the preset are imported:\n\n"
        "```python\nimport keras_hub\nimport tf_mural.export.presets  # registers the classes\n\n"
        f'backbone = keras_hub.models.Backbone.from_preset("{name}")\n'
        f'tokenizer = keras_hub.tokenizers.Tokenizer.from_preset("{name}")\n```'
    )


def _recipe(config):
    if not config:
        return ""
    optimizer = config["optimizer"]
    rows = [
        ("batch size", f"{config['batch_size']:,}"),
        ("steps", f"{config['steps']:,}"),
        ("optimizer", optimizer["name"]),
        ("peak learning rate", f"{optimizer['learning_rate']:g}"),
        ("warm-up steps", f"{optimizer['warmup_steps']:,}"),
        ("precision", config.get("precision", "float32")),
    ]
    for name, term in config["terms"].items():
        value = f"{term['loss']}, {term['x']} with {term['y']}, weight {term['weight']:.3g}"
        options = LOSSES[term["loss"]].options if term["loss"] in LOSSES else {}
        values = [
            f"{key.replace('_', ' ')} {term.get(key, option.default)}"
            for key, option in options.items()
        ]
        rows.append((f"term {name}", ", ".join([value, *values])))
    return "## Recipe\n\n" + _table(("", ""), rows)


def _data(digests, manifests):
    if not digests:
        return ""
    rows, counts = [], []
    for folder, digest in digests.items():
        manifest = manifests[folder]
        if manifest is None:
            rows.append((folder, digest, "not available", "", ""))
            continue
        name = f"{manifest['dataset']}/{manifest['split']}"
        numbers = (f"{manifest[key]:,}" for key in ("records", "images", "texts"))
        rows.append((name, digest, *numbers))
        languages = manifest["languages"].items()
        counts.append(f"- {name}: " + ", ".join(f"{code} {count:,}" for code, count in languages))
    table = _table(("data set", "digest", "records", "images", "texts"), rows)
    by_language = "\n\nTexts by language:\n\n" + "\n".join(counts) if counts else ""
    return "## Data\n\n" + table + by_language


def _scores(evaluation):
    sections = []
    for name, result in evaluation.items():
        values = result["values"]
        columns = list(dict.fromkeys(key for scores in values.values() for key in scores))
        rows = [
            (group, *(f"{scores[c]:.1f}" if c in scores else "-" for c in columns))
            for group, scores in values.items()
        ]
        header = ("", *(column.replace("_", " ") for column in columns))
        sections.append(f"{name} (protocol {result['protocol']}):\n\n{_table(header, rows)}")
    return "## Scores\n\n" + "\n\n".join(sections) if sections else ""


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _read_manifest(folder):
    try:
        return records.read_manifest(folder) if file_io.isdir(folder) else None
    except UserError:
        return None
