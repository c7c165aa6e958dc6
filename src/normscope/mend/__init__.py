"""Mending what a check found: statistics made anew, layers frozen, folded or converted."""

from normscope.mend.convert import convert
from normscope.mend.decay import weight_decay_groups
from normscope.mend.fold import fold
from normscope.mend.freeze import freeze, unfreeze
from normscope.mend.recalibrate import recalibrate

__all__ = ["convert", "fold", "freeze", "recalibrate", "unfreeze", "weight_decay_groups"]
