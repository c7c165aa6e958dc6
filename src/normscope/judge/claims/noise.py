"""C1101: noise behind batch normalization moves distributions."""

from __future__ import annotations

from normscope.judge.evidence.movement import Movement


class NoiseMoves(Movement):
    """Whether the noise does what it is there for: if what the next layers are given moved no more
    than in a network without normalization, C1102 would say nothing. A movement of the mean and of
    the standard deviation of a channel between two steps, in standard deviations of the channel;
    what another batch moves is part of it, in all arms.
    """

    code = "C1101"
    name = "noise-moves-distributions"
