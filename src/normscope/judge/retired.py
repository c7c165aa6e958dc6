"""Claims that are no longer judged. A code is never used for another claim."""

from __future__ import annotations

RETIRED = {
    "C303": (
        "gradients-do-not-vanish: it counted epochs with a step whose gradient was below a "
        "thousandth of the epoch's mean. Of 3,075 epochs of runs that had learned 2 had one, both "
        "with normalization, and runs that had not were left out: it could not find anything."
    ),
    "C304": (
        "gradients-reach-the-first-layer: the stem's gradient over the last layer's. Weights "
        "before a normalization are scale-invariant and their gradient is proportional to 1 over "
        "their norm; the ratio turned its sign with the learning rate and the data. C305 measures "
        "the gradient at activations, where no weight has a scale."
    ),
    "C402": (
        "block-output-near-normal: distance of the first stage's output to N(0, 1). Behind a ReLU "
        "a network whose output is nearly all zeros is near it, so that the claim preferred dead "
        "units. What the notebook says of that tensor is C403 and C404."
    ),
    "C702": (
        "larger-gradients: the norm of the stem's gradient; not comparable between arms, for the "
        "reason of C304. The post speaks of the activation's slope, which is C701."
    ),
    "C1202": (
        "branches-scaled-down-by-default: of C1201 with PyTorch's initialization, which nobody "
        "claims."
    ),
}
"""{code: name, what it measured, and why it is gone}."""
