"""The publications that make the claims, or dispute them."""

from __future__ import annotations

from normscope.judge.verdicts import Source

NOTEBOOK = Source(
    'the notebook "Batch Normalization in ResNets", which follows Ioffe & Szegedy 2015',
    "https://arxiv.org/abs/1502.03167",
)
BLOG = Source(
    'the blog post "Intuitive Understanding of Batch Normalization", which follows Ioffe & '
    "Szegedy 2015",
    "https://arxiv.org/abs/1502.03167",
)
RATES_TABLE = Source(
    "the notebook's table, where it was not measured; Bjorck et al. 2018 measure that rates may "
    "be higher (C502)",
    "https://arxiv.org/abs/1806.02375",
)
DE_SMITH_ON_RATES = Source(
    "Santurkar et al. 2018 and Bjorck et al. 2018, who make no such distinction; disputed by De &"
    ' Smith 2020, "Batch Normalization Biases Residual Blocks Towards the Identity Function in '
    'Deep Networks"',
    "https://arxiv.org/abs/2002.10444",
)
DE_SMITH = Source(
    'De & Smith 2020, "Batch Normalization Biases Residual Blocks Towards the Identity Function '
    'in Deep Networks"; after them Brock et al. 2021, "Characterizing signal propagation to close'
    ' the performance gap in unnormalized ResNets"',
    "https://arxiv.org/abs/2002.10444",
)
BEYOND_DE_SMITH = Source(
    "our extension of De & Smith 2020, who speak of He's initialization",
    "https://arxiv.org/abs/2002.10444",
)
IOFFE_SZEGEDY = Source(
    'Ioffe & Szegedy 2015, "Batch Normalization", section 3.1, which takes population statistics '
    "for inference; how near they are, and what it costs to do without, is our question",
    "https://arxiv.org/abs/1502.03167",
)
WU_JOHNSON = Source(
    "Wu & Johnson 2021, \"Rethinking 'Batch' in BatchNorm\", section 3",
    "https://arxiv.org/abs/2105.07576",
)
WU_HE = Source('Wu & He 2018, "Group Normalization", figure 1', "https://arxiv.org/abs/1803.08494")
SANTURKAR = Source(
    'Santurkar et al. 2018, "How Does Batch Normalization Help Optimization?"',
    "https://arxiv.org/abs/1805.11604",
)
IDENTITY_MAPPINGS = Source(
    'the notebook\'s last line; He et al. 2016, "Identity Mappings in Deep Residual Networks", '
    "compare orders around the convolution and the addition, among them normalization after the "
    "non-linearity",
    "https://arxiv.org/abs/1603.05027",
)
