"""Mending what a check found: statistics made anew, layers frozen, folded or converted,
gains in another convention or type."""

from normscope.mend.convert import convert
from normscope.mend.convert_gains import convert_gains
from normscope.mend.fold import fold
from normscope.mend.fold_gains import fold_gains
from normscope.mend.freeze import freeze, unfreeze, weight_decay_groups
from normscope.mend.gains import gains_to_float32
from normscope.mend.recalibrate import recalibrate

__all__ = [
    "convert",
    "convert_gains",
    "fold",
    "fold_gains",
    "freeze",
    "gains_to_float32",
    "recalibrate",
    "unfreeze",
    "weight_decay_groups",
]
