"""MURAL and ETCL with a separate temperature for the losses between texts."""

from .. import control, etcl, mural

STAGES = {"mural": mural, "control": control, "etcl": etcl}


def get_config(stage):
    """Returns the config of a stage at size tiny, with a temperature for terms between texts."""
    config = STAGES[stage].get_config()
    temperatures = config.model.scalars.temperature
    temperatures.texts = temperatures.shared
    for term in ("source_target", "text_a_text_b"):
        if term in config.terms:
            config.terms[term].temperature = "texts"
    return config
