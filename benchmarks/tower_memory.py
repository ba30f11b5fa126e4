"""Estimates the parameters and the memory of a training step of public models, without weights.

    python benchmarks/tower_memory.py --models=siglip2_base,e5_small --adapt=full,lora:8

XLA compiles the step of tools/train.py for a CPU, or with --platform=tpu for a TPU that need not be
present (by the package libtpu; slower), and states the memory that the program needs. No weights
are allocated. A model with two encoders is trained on images and texts, a text encoder on texts and
stored vectors of a teacher (distillation).

The compilation of all layers takes long. With --layers=2,4, models with 2 and with 4 transformer
layers per encoder are compiled instead, and the memory is extrapolated linearly in the numbers of
layers of the image encoder and the text encoder. --layers=all compiles the whole model.
"""

import copy
import json
import os
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from benchmarks.common import (  # noqa: E402
    append_load,
    log,
    machine_info,
    make_parser,
    parse_names,
    report,
)

_GIB = 2**30
_TOPOLOGY = "v5p:1x1x1"  # one chip with 95 GiB, more than each step needs
_PARTS = {"image": "vision_config", "text": "text_config"}


def _siglip(vision, text):
    return {"model_type": "siglip", "vision_config": vision, "text_config": text}


def _clip(kind, dim, vision, text):
    towers = {"vision_config": vision, "text_config": text}
    return {"model_type": kind, "projection_dim": dim, **towers}


def _sizes(layers, width, heads, hidden, **others):
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": hidden, **others}


_BASE = (12, 768, 12, 3072)
_SO400M = (27, 1152, 16, 4304)
_XLM_R = {"model_type": "xlm-roberta", "layer_norm_eps": 1e-5, "pad_token_id": 1}
_XLM_R |= {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}
_HUGE = _sizes(32, 1280, 16, 5120, image_size=224, patch_size=14, hidden_act="quick_gelu")
_TEXT_77 = {"max_position_embeddings": 77, "hidden_act": "quick_gelu"}
# {name: content of config.json as published}. Keys that are not here have the default of the class.
MODELS = {
    "clip_b32": _clip(
        "clip",
        512,
        _sizes(*_BASE, image_size=224, patch_size=32),
        _sizes(12, 512, 8, 2048, vocab_size=49408, eos_token_id=49407, **_TEXT_77),
    ),
    "clip_l14": _clip(
        "clip",
        768,
        _sizes(24, 1024, 16, 4096, image_size=224, patch_size=14),
        _sizes(12, 768, 12, 3072, vocab_size=49408, eos_token_id=49407, **_TEXT_77),
    ),
    "siglip_base": _siglip(
        _sizes(*_BASE, image_size=224, patch_size=16),
        _sizes(*_BASE, vocab_size=32000, max_position_embeddings=64),
    ),
    "siglip_base_multilingual": _siglip(
        _sizes(*_BASE, image_size=256, patch_size=16),
        _sizes(*_BASE, vocab_size=250000, max_position_embeddings=64),
    ),
    "siglip2_base": _siglip(
        _sizes(*_BASE, image_size=224, patch_size=16),
        _sizes(*_BASE, vocab_size=256000, max_position_embeddings=64),
    ),
    "siglip2_so400m": _siglip(
        _sizes(*_SO400M, image_size=384, patch_size=14),
        _sizes(*_SO400M, vocab_size=256000, max_position_embeddings=64),
    ),
    "metaclip2_huge": _clip(
        "metaclip_2",
        1024,
        _HUGE,
        _sizes(24, 1024, 16, 4096, vocab_size=901629, eos_token_id=2, **_TEXT_77),
    ),
    "e5_small": {
        "model_type": "bert",
        **_sizes(12, 384, 12, 1536, vocab_size=250037, max_position_embeddings=512),
    },
    "xlm_r_base": {**_XLM_R, **_sizes(*_BASE)},
    "xlm_r_large": {**_XLM_R, **_sizes(24, 1024, 16, 4096)},
    "labse": {"model_type": "bert", **_sizes(*_BASE, vocab_size=501153)},
    "clip_multilingual": {"model_type": "distilbert", "vocab_size": 119547, "n_layers": 6},
}


def has_images(config):
    """Returns whether the config.json of a model describes an image encoder."""
    return "vision_config" in config


def layers_of(config):
    """Returns {tower: number of transformer layers}."""
    parts = {"text": config}
    if has_images(config):
        parts = {tower: config[key] for tower, key in _PARTS.items()}
    return {tower: part[_layer_key(part)] for tower, part in parts.items()}


def with_layers(config, layers):
    """Returns config.json with other numbers of layers, {tower: number}."""
    config = copy.deepcopy(config)
    for tower, number in layers.items():
        part = config[_PARTS[tower]] if has_images(config) else config
        part[_layer_key(part)] = number
    return config


def _layer_key(part):
    return "n_layers" if "n_layers" in part else "num_hidden_layers"


def write_folder(folder, config):
    """Writes the description of a model without weights, and a vocabulary with as many pieces."""
    files = {"config.json": config}
    if has_images(config):
        size = config["vision_config"]["image_size"]
        kind = "Siglip" if config["model_type"] == "siglip" else "CLIP"
        square = {"height": size, "width": size}
        files["preprocessor_config.json"] = {
            "image_processor_type": f"{kind}ImageProcessor",
            "size": square if kind == "Siglip" else {"shortest_edge": size},
            **({} if kind == "Siglip" else {"crop_size": square}),
        }
        text = config["text_config"]
        files["tokenizer_config.json"] = {"model_max_length": text["max_position_embeddings"]}
    for name, content in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file)
    size = config.get("text_config", config)["vocab_size"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"piece{i}" for i in range(size - 5))]
    with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(pieces))


def step_config(folder, config, batch, precision, remat, adapt):
    """Returns the config of a stage that trains the model of a folder.

    Args:
        folder: folder of `write_folder`.
        config: content of config.json.
        batch: rows per step.
        precision, remat: see configs/base.py.
        adapt: trained weights of all encoders, see configs/base.py.
    """
    from tf_mural.configs import base, finetune

    stage, name = finetune.get_config("tiny"), f"hf:{folder}"
    stage.model.text.backbone, stage.model.text.adapt = name, adapt
    stage.batch_size, stage.precision, stage.remat = batch, precision, remat
    if has_images(config):
        stage.model.image.backbone, stage.model.image.adapt = name, adapt
        return stage
    width = config.get("hidden_size", 768)
    stage.model.embedding_dim = width
    stage.model.image.adapt = "frozen"
    stage.model.towers.teacher = dict(modality="vectors", vectors="teacher", width=width, layers=())
    fields = dict(text="text", teacher="teacher")
    stage.sources = dict(texts=base.source("tiny", "bitext", fields))
    stage.terms = dict(distil=base.term("text", "teacher", weight=1.0, loss="distil", form="mse"))
    return stage


def compile_step(config, batch, precision, remat, adapt, platform):
    """Compiles the step of a model.

    Args:
        config: content of config.json.
        batch, precision, remat, adapt: see `step_config`.
        platform: "cpu" or "tpu".

    Returns:
        {"weights", "slots", "memory", "seconds"}: bytes of the weights, of the optimizer slots, and
        of all that the step needs, these two included; and seconds of the compiler.
    """
    import jax

    from tf_mural import experiment
    from tf_mural.backends.jax import Devices

    jax.clear_caches()
    with tempfile.TemporaryDirectory() as folder:
        write_folder(folder, config)
        stage = step_config(folder, config, batch, precision, remat, adapt)
        traced, num_bytes = experiment.trace_step(stage, Devices(_devices(platform)))
    start_time = time.perf_counter()
    memory = traced.lower().compile().memory_analysis()
    return {
        **num_bytes,
        "memory": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        "seconds": time.perf_counter() - start_time,
    }


def _devices(platform):
    import jax

    if platform == "cpu":
        return jax.devices("cpu")[:1]
    from jax.experimental import topologies

    options = {"platform": "tpu", "chips_per_host_bounds": [1, 1, 1]}
    return topologies.get_topology_desc(_TOPOLOGY, **options).devices


def estimate(config, layers, **options):
    """Returns the result of `compile_step` for the whole model.

    Args:
        config: content of config.json.
        layers: (few, more) numbers of layers from which the results are extrapolated; None: the
            whole model is compiled.
        **options: `batch`, `precision`, `remat`, `adapt` and `platform` of `compile_step`.
    """
    if layers is None:
        return compile_step(config, **options)
    few, more = layers
    numbers = layers_of(config)
    first = compile_step(with_layers(config, dict.fromkeys(numbers, few)), **options)
    result = dict(first)
    for tower, number in numbers.items():
        other = with_layers(config, {**dict.fromkeys(numbers, few), tower: more})
        second = compile_step(other, **options)
        for key in ("weights", "slots", "memory"):
            result[key] += (second[key] - first[key]) * (number - few) / (more - few)
        result["seconds"] += second["seconds"]
    return result


def table(results):
    """Returns the lines of a table."""
    header = ("model", "precision", "remat", "adapt", "parameters", "slots GiB", "step GiB")
    lines = ["  ".join(f"{name:>14}" for name in header)]
    for result in results:
        sizes = [f"{result['weights'] / 4e6:.0f} M", f"{result['slots'] / _GIB:.1f}"]
        cells = [*result["case"].values(), *sizes, f"{result['memory'] / _GIB:.1f}"]
        lines.append("  ".join(f"{cell!s:>14}" for cell in cells))
    return lines


def main(arguments=None):
    """Runs the benchmark. `arguments` is a list of flags; None means the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", default="siglip2_base", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--batch", type=int, default=256, help="rows per step")
    parser.add_argument("--platform", default="cpu", choices=["cpu", "tpu"])
    parser.add_argument("--precision", default="float32", help="comma-separated")
    parser.add_argument("--remat", default="0", help="0, 1 or 0,1")
    parser.add_argument("--adapt", default="full", help="comma-separated, such as full,lora:8")
    parser.add_argument("--layers", default="2,4", help="two numbers of layers, or all")
    options = parser.parse_args(arguments)
    names = parse_names(parser, "--models", options.models, MODELS)
    layers = None if options.layers == "all" else tuple(map(int, options.layers.split(",")))
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # libtpu must not look for a TPU.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ["KERAS_BACKEND"] = "jax"
    # The optimization of machine code takes time and does not change the memory.
    fast = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fast}"
    info, results = machine_info(), []
    for name in names:
        for precision in options.precision.split(","):
            for remat in options.remat.split(","):
                for adapt in options.adapt.split(","):
                    case = dict(model=name, precision=precision, remat=remat, adapt=adapt)
                    values = dict(precision=precision, remat=remat == "1", adapt=adapt)
                    values |= {"batch": options.batch, "platform": options.platform}
                    result = estimate(MODELS[name], layers, **values)
                    size = f"{result['memory'] / _GIB:.2f} GiB, {result['weights'] / 4e6:.1f} M"
                    log(f"{' '.join(case.values())}: {size}, {result['seconds']:.0f} s of compiler")
                    results.append({"case": case, **result})
                    append_load(info)
    report(info, table(results), options.json, results=results)


if __name__ == "__main__":
    main()
