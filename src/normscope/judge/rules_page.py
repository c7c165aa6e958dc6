"""docs/checks.md: the page of all rules, made from their docstrings."""

from __future__ import annotations

import textwrap

from normscope.judge.rule import Rule
from normscope.judge.rules import rules

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

INTRODUCTION = """# Checks

`normscope.check(model)` and `normscope check module:factory` look for the ways in which
normalization breaks. This page is made from the rules (`python -m normscope.judge.rules >
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


def to_markdown() -> str:
    """Return the page: an overview, then each rule."""
    parts = [INTRODUCTION, _overview()]
    for prefix, title in SECTIONS.items():
        parts.append(f"## {prefix}xx: {title}\n")
        parts += [_section(rule) for rule in rules() if rule.code.startswith(prefix)]
    return "\n".join(parts)


def _overview() -> str:
    rows = [
        f"| [{r.code}](#{r.code.lower()}-{r.name}) | {r.name} | {r.severity} | "
        f"{r.needs.words if r.needs is not None else ''} |"
        for r in rules()
    ]
    return "\n".join(["| code | fault | up to | needs |", "|---|---|---|---|", *rows, ""])


def _section(rule: Rule) -> str:
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
