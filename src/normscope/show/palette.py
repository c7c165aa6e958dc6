"""The colours of everything that is drawn, by what they stand for: the pages' and the figures'."""

from __future__ import annotations

# Okabe and Ito (2008) without yellow, which is too faint on white; distinct under the common colour
# deficiencies. A hue stands for a normalization; the second of each pair is for a dark page.
_HUES = (
    ("#0072B2", "#4FA8E8"), ("#D55E00", "#FF8B42"), ("#009E73", "#2EC89C"), ("#CC79A7", "#E7A0C9"),
    ("#E69F00", "#F3B73B"), ("#56B4E9", "#93D2F6"), ("#000000", "#F2F2F2"),
)  # fmt: skip

_ROLES = {
    "paper": ("#ffffff", "#0f1318"),
    "panel": ("#ffffff", "#151a21"),
    "soft": ("#f3f5f8", "#181e26"),  # behind a sentence or code
    "ink": ("#1b1f24", "#e8ecf1"),
    "muted": ("#57606a", "#a3adb8"),  # what is no norm: axes, thresholds, reference curves
    "grid": ("#e8eaed", "#262d36"),
    "line": ("#c9ced4", "#3c4550"),
    "accent": ("#0b5cad", "#7cb8f5"),
    "warn": ("#8a3b00", "#ffb48a"),  # a claim that is contradicted; a problem
    "warn-paper": ("#fff4ec", "#2b1c12"),
    "good": ("#0a6045", "#7fdcb4"),  # a claim that is supported
    "good-paper": ("#eaf6f0", "#10261d"),
    "input": ("#7d8791", "#98a3af"),
    "region": ("#00916e", "#2ec89c"),  # where the next activation lets gradients through
    "batch": ("#b34e00", "#ff934f"),  # this batch, beside what the layer remembers
    "remembered": ("#0069a6", "#58aeea"),
}

_PALETTE = _ROLES | {f"c{number}": pair for number, pair in enumerate(_HUES)}

HUES = tuple(light for light, _ in _HUES)
"""The colours of norms on white."""


def colour_of(role: str) -> str:
    """Return a role's colour on white."""
    return _PALETTE[role][0]


def variable(hue: str) -> str:
    """Return a norm's colour as the pages name it, so that a dark page can brighten it."""
    return f"var(--c{HUES.index(hue)})"


def style_sheet() -> str:
    """Return every colour as a variable of a page, with its value on white and on a dark screen."""
    light, dark = (
        ":root { " + " ".join(f"--{name}: {pair[k]};" for name, pair in _PALETTE.items()) + " }\n"
        for k in (0, 1)
    )
    return f"{light}@media screen and (prefers-color-scheme: dark) {{ {dark}}}\n"
