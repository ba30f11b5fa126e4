"""Settings of the recorded SigLIP losses, for the recorder and the test.

The features are those of `clip_loss_case`. The scale multiplies the similarities, and the bias is
added to the logits.
"""

CASES = {
    "one pair": dict(pairs=1, width=3, likeness=1.0, scale=10.0, bias=-10.0),
    "chance": dict(pairs=7, width=5, likeness=0.0, scale=1.0, bias=0.5),
    "start": dict(pairs=48, width=16, likeness=1.0, scale=10.0, bias=-10.0),
    "sharp": dict(pairs=24, width=8, likeness=1.0, scale=100.0, bias=-60.0),
}
