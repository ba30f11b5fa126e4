"""MURAL and ETCL with a temperature of its own for the losses between texts."""

from configs import control, etcl, mural

STAGES = {"mural": mural, "control": control, "etcl": etcl}


def get_config(stage):
    """The stage at size tiny; terms between two texts take the temperature `texts`."""
    config = STAGES[stage].get_config()
    config.model.temperatures.texts = config.model.temperatures.shared
    for term in ("source_target", "text_a_text_b"):
        if term in config.terms:
            config.terms[term].temperature = "texts"
    return config
