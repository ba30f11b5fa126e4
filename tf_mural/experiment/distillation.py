"""Checks of a distillation: the vectors of the teacher, and the image encoder of the student."""

import os

from tf_mural import public_models
from tf_mural.data.records import MANIFEST, read_manifest
from tf_mural.errors import UserError
from tf_mural.experiment.data import find_records
from tf_mural.experiment.fields import field_towers, tower_modalities
from tf_mural.experiment.stored_vectors import field_vectors, weights_fingerprint


def check_extractions(config, data_dir, model):
    """Checks that tools/extract.py has added the vectors that the sources require.

    Args:
        config: ConfigDict of a stage. `extraction` of a source names the record sets without the
            vectors, and the languages whose texts must have vectors, see configs/base.py.
        data_dir: folder of the record sets.
        model: the initial weights of the run, or None. The message proposes these weights, or the
            public model of the image encoder, as the teacher.

    Raises:
        UserError: a record set is missing, has no such vectors, or has vectors of texts in other
            languages. The message contains the command that makes the record sets.
    """
    vectors, backbone = field_vectors(config), config.model.image.backbone
    teacher = model or (backbone if public_models.is_public(backbone) else "<the teacher's model>")
    for name, source in config.sources.items():
        if "extraction" not in source:
            continue
        # The stored features of an image or text tower do not come from a teacher.
        own = {vectors[field] for field in source.fields if field in vectors}
        names = {name for name, _, modality in own if modality == "vectors"}
        for vector_name in sorted(names):
            for folder in source.records:
                path = find_records(folder, data_dir)
                problem = _problem(path, vector_name, source.extraction.languages)
                if problem:
                    command = _command(source, data_dir, vector_name, teacher)
                    raise UserError(
                        f"{path}: {problem}, but the source {name!r} reads the vectors "
                        f"{vector_name!r}, which a teacher computes. Make them with: {command}"
                    )


def _problem(path, name, languages):
    """Returns why a record set does not have the vectors that a source requires, or None."""
    if not os.path.exists(os.path.join(path, MANIFEST)):
        return "there is no such record set"
    description = read_manifest(path).get("vectors", {}).get(name)
    if description is None:
        return f"the records have no vectors {name!r}"
    stored, expected = (set(codes or ()) for codes in (description.get("languages"), languages))
    if stored == expected:
        return None
    stored, expected = (", ".join(sorted(codes)) or "all languages" for codes in (stored, expected))
    return f"the vectors {name!r} are those of texts in {stored}, expected texts in {expected}"


def _command(source, data_dir, name, teacher):
    """Returns the command line that makes the record sets of a source."""
    sets = ",".join(os.path.join(data_dir, folder) for folder in source.extraction.records)
    languages = ",".join(source.extraction.languages or ())
    out_dir = os.path.dirname(os.path.join(data_dir, source.records[0]))
    parts = [
        f"python tools/extract.py --model={teacher} --name={name}",
        "--of=texts",
        *([f"--languages={languages}"] if languages else []),
        f"--records={sets} --out_dir={out_dir}",
    ]
    return " ".join(parts)


def check_teacher(config, run, init):
    """Checks that a run without images has the image encoder of its teacher.

    The stage then does not train the image encoder on texts of the student. The images are found
    by the student's texts only if the image encoder is that of the teacher's model.

    Args:
        config: ConfigDict of a stage.
        run: `run.Run`, whose initial weights are loaded.
        init: the initial weights, or None.

    Returns:
        A note, or "".

    Raises:
        UserError: the run starts from another run, whose image encoder differs from that of the
            teacher's model.
    """
    modalities, towers = tower_modalities(config), field_towers(config)
    if "image" in {modalities[tower] for tower in towers.values()}:
        return ""
    actual = None
    for name, *_ in field_vectors(config).values():
        for folder in run.data:
            model = read_manifest(folder).get("vectors", {}).get(name, {}).get("model", {})
            if "image_fingerprint" not in model:
                continue
            actual = actual or weights_fingerprint(run.trainer.encoder.towers["image"])
            if model["image_fingerprint"] == actual:
                continue
            problem = (
                f"{folder}: the vectors {name!r} come from {model.get('name')}, whose image "
                "encoder is not that of this run, and this stage does not train on images: the "
                "texts of the student would not find images"
            )
            backbone = config.model.image.backbone
            if public_models.is_public(backbone):
                return f"{problem}, unless only the image size differs ({backbone})"
            raise UserError(
                f"{problem}. Start from the teacher's model (`init={model.get('name')}`), or "
                f"extract the vectors with --model={init or '<initial weights>'}"
            )
    return ""
