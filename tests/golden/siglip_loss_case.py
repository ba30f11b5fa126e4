"""Settings of the recorded SigLIP losses, for the recorder and the test.

`clip_loss_case.features` creates the features. A logit is the scale times the similarity, plus the
bias.
"""

CASES = {
    "one pair": dict(pairs=1, width=3, likeness=1.0, scale=10.0, bias=-10.0),
    "chance": dict(pairs=7, width=5, likeness=0.0, scale=1.0, bias=0.5),
    "start": dict(pairs=48, width=16, likeness=1.0, scale=10.0, bias=-10.0),
    "sharp": dict(pairs=24, width=8, likeness=1.0, scale=100.0, bias=-60.0),
}
