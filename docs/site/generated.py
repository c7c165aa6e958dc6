"""Makes the pages that follow from the code, which tests compare with it:

python docs/site/generated.py checks > docs/checks.md
python docs/site/generated.py claims > docs/claims.md
python docs/site/generated.py tables    # those of docs/exporting.md
"""

from __future__ import annotations

import sys
import textwrap

from normscope.judge.claim import Claim
from normscope.judge.claim_kinds import WithinRunClaim
from normscope.judge.claims import claims
from normscope.judge.rule import Rule
from normscope.judge.rules import rules
from normscope.judge.statistics import FIRM_FROM, LEAST_PAIRS
from normscope.records.export.columns import Table
from normscope.records.export.recording_tables import (
    EVENTS,
    HISTOGRAMS,
    LAYERS,
    RECORDINGS,
    STATISTICS,
)
from normscope.records.export.run_tables import CAPTURE_BINS, CAPTURES, EPOCHS, MEASUREMENTS, RUNS

SECTIONS = {
    "NS0": "What was recognized",
    "NS1": "Values of a layer",
    "NS2": "Settings",
    "NS3": "Modes and freezing",
    "NS4": "Structure and optimizer",
    "NS5": "What batches show",
    "NS6": "Loaders and devices",
    "NS7": "Two models, or a state_dict",
    "NS8": "History of a training",
}

CHECKS = """# Checks

`normscope.check(model)` and `normscope check module:factory` look for the ways in which
normalization breaks. This page is made from the rules (`python docs/site/generated.py checks >
docs/checks.md`). What they were measured on, where their thresholds come from and what they cannot
see is in [results/checks.md](results/checks.md).

A finding is an *error* (the model computes something that nobody wanted), a *warning* (it most
likely does), or an *info* (worth knowing; normal practice gives no more than that). A rule that
lacks the facts to decide says what is missing instead of guessing. Codes can be cut short:
`--select NS5` asks all rules of that section.

The examples begin after `import copy, torch`, `import torch.nn.functional as F`, `from torch import
nn`, `from torch.utils.data import DataLoader, TensorDataset` and `from normscope import mend`. In
them `Net()` makes a small network of three convolutions, each with a batch normalization (layers 1,
4 and 7), and `trained()` gives one in eval mode that was trained on images like `images` [1024, 1,
8, 8] with their `labels`. `batches` are some of its training batches.

What an example assigns (`model`, `batches`, `optimizer`, `other`, `loader`, `world_size`, `export`)
is what `normscope.check` is given; a `state` is for `normscope.check_state_dict`. A loop trains a
`model` with an `optimizer` on the batches of a `loader`, while `normscope.watch` records it. The
code under "Use instead" goes on from the example, but for loops. The tests run it all, but for what
needs several processes: the rule finds its fault in the example and not in what to use instead.
"""


def checks_page() -> str:
    """Return docs/checks.md: an overview, then each rule."""
    parts = [CHECKS, _overview()]
    for prefix, title in SECTIONS.items():
        parts.append(f"## {prefix}xx: {title}\n")
        parts += [_of_rule(rule) for rule in rules() if rule.code.startswith(prefix)]
    return "\n".join(parts)


def _overview() -> str:
    rows = [
        f"| [{r.code}](#{r.code.lower()}-{r.name}) | {r.name} | {r.severity} | "
        f"{r.needs.words if r.needs is not None else ''} |"
        for r in rules()
    ]
    return "\n".join(["| code | fault | up to | needs |", "|---|---|---|---|", *rows, ""])


def _of_rule(rule: Rule) -> str:
    text = rule.text()
    mend = f" See `{rule.mend}`." if rule.mend else ""
    not_run = f" ({text.not_run}; not run by the tests)" if text.not_run else ""
    return f"""### {rule.code} {rule.name}

{_filled(f"**What it finds.** {text.what}")}

{_filled(f"**Why is this bad?** {text.why}")}

{_filled(f"**When is it fine?** {text.when_fine}")}

Example{not_run}:

```python
{text.example}
```

Use instead:

```python
{text.instead}
```

{_filled(f"- **Remedy:** {rule.remedy}{mend}", indent="  ")}
- **Severity:** up to {rule.severity}. **Kinds of layer:** {", ".join(rule.kinds) or "any"}.
- **Reference:** <{rule.reference}>
"""


def _filled(text: str, indent: str = "") -> str:
    """The paragraphs in lines of 100 columns."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    wrapper = textwrap.TextWrapper(100, subsequent_indent=indent, break_on_hyphens=False)
    return "\n\n".join(wrapper.fill(paragraph) for paragraph in paragraphs)


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


CLAIMS = f"""# Claims

What batch normalization is said to do, and what decides here. This page is made from the claims in
`src/normscope/judge/claims`; `normscope claims DIR` judges them on the runs that are there.

A claim has one quantity, with one value for each arm and seed; some claims set two readings of the
same runs against each other instead of two arms. Where runs differ in other settings too, only runs
with equal settings are compared, and a seed's values are averaged over the settings, so that one
interval decides. Initialization, activation function, block and batch size are varied for the
claims about them; the other claims are judged at the default of these, or the most frequent value.

The interval that is shown decides, and it holds at all numbers of seeds together (95%), so that
seeds may be added until a claim is decided; [statistics.md](statistics.md) has the formula, its
price and its limits. Under {LEAST_PAIRS} seeds there is no verdict, under {FIRM_FROM} it is
provisional.

- **supported**, **contradicted**: the interval leaves out no effect at all.
- **negligible**: it lies inside the margin and leaves out no effect; its sign is said.
- **no difference**: it lies inside the margin.
- **cannot tell**: none of these. The verdict says what would settle it.

A network that did not learn has gradients and distributions too, and they would outweigh
everything: claims about these are judged at the settings at which both arms learned on average, on
the runs that learned (a fifth of the way from guessing to 1); the others are named and counted.
Accuracy counts them all. A value that is read in steps as wide as the margin, as a learning rate
from a grid, is never found to make no difference. A loss along a line that is not finite, or of a
training that diverged, is infinite, and leaves its claim open.

C20xx are about transformers and judged on these alone, by the loss on held-out images or text,
which is never taken for higher than that of guessing. They were fixed in code before any of their
results was looked at.
"""

NOT_JUDGED = """## Not judged

- *Batch normalization does better on long-tailed data*: the blog post's gloss on internal covariate
  shift. It is wrong about Ioffe & Szegedy, who say nothing of long tails, and there is no such data
  here.
"""


def claims_page() -> str:
    """Return docs/claims.md."""
    retired = [f"- **{code}** {why}" for code, why in RETIRED.items()]
    gone = "\n".join(["## Retired", "", "Codes are not used again.", "", *retired])
    return "\n".join([CLAIMS, *map(_of_claim, claims()), NOT_JUDGED, gone, ""])


def _first(claim: Claim) -> str:
    """The arm that a claim is about."""
    if claim.between == Claim.between:
        return "with normalization"
    what = "reading" if isinstance(claim, WithinRunClaim) else "arm"
    first, second = (each.format(norm="batch", reference="none") for each in claim.between)
    return f"of the first {what} ({first}, against {second})"


def _of_claim(claim: Claim) -> str:
    margin = f"a factor of {claim.margin:g}" if claim.ratio else f"{claim.margin:g} {claim.unit}"
    compared = "ratio" if claim.ratio else "difference"
    supports = "A larger" if claim.higher_supports else "A smaller"
    supports = f" {supports} value {_first(claim)} supports the claim."
    rule = f"Compared by: {compared}; as no difference counts up to {margin}."
    if claim.decides:
        supports, rule = "", f"Decided by: {claim.decides}."
    lines = [
        f"## {claim.code} {claim.name}",
        "",
        f"> {claim.statement}",
        "",
        f"- Source: {claim.source.title}, {claim.source.link}",
        f"- Quantity: {claim.quantity}.{supports}",
        f"- Why this one: {claim.why}",
        f"- Needs: {claim.needs.format(norm='batch', reference='none')}.",
        f"- {rule}",
    ]
    if claim.also:
        lines.append(f"- Reported beside it: {'; '.join(item.label for item in claim.also)}.")
    return "\n".join([*lines, ""])


TABLES = (
    RUNS, EPOCHS, CAPTURES, CAPTURE_BINS, MEASUREMENTS, RECORDINGS, LAYERS, STATISTICS, HISTOGRAMS,
    EVENTS,
)  # fmt: skip


def tables_page() -> str:
    """Return every table with its columns, units and meanings, in Markdown."""
    return "\n".join(map(_of_table, TABLES))


def _of_table(table: Table) -> str:
    lines = [
        f"### `{table.name}`",
        "",
        f"A row is {table.row}.",
        "",
        "| column | type | unit | meaning |",
        "|---|---|---|---|",
    ]
    for field in table.schema:
        unit, meaning = (field.metadata[key].decode() for key in (b"unit", b"description"))
        line = f"| `{field.name}` | {field.type} | {unit} | {meaning} |"
        lines.append(line.replace("<", "&lt;"))
    return "\n".join([*lines, ""])


PAGES = {"checks": checks_page, "claims": claims_page, "tables": tables_page}

if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in PAGES]:
        sys.exit(f"Name the page: {', '.join(PAGES)}.")
    sys.stdout.write(PAGES[sys.argv[1]]())
