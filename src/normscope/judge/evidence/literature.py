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
FIX_RES = Source(
    'Touvron et al. 2019, "Fixing the train-test resolution discrepancy", of crops; of padded '
    "crops and batch normalization it is our reading",
    "https://arxiv.org/abs/1906.06423",
)
YANG = Source(
    'Yang et al. 2019, "A Mean Field Theory of Batch Normalization"',
    "https://arxiv.org/abs/1902.08129",
)
DANESHMAND = Source(
    'Daneshmand et al. 2020, "Batch Normalization Provably Avoids Rank Collapse for Randomly '
    'Initialised Deep Networks"',
    "https://arxiv.org/abs/2003.01652",
)
VAN_LAARHOVEN = Source(
    'van Laarhoven 2017, "L2 Regularization versus Batch and Weight Normalization"',
    "https://arxiv.org/abs/1706.05350",
)
LI_ARORA = Source(
    'Li & Arora 2020, "An Exponential Learning Rate Schedule for Deep Learning", which proves it '
    "for layers without a scale; after van Laarhoven 2017",
    "https://arxiv.org/abs/1910.07454",
)
SKIPINIT = Source(
    'De & Smith 2020, "Batch Normalization Biases Residual Blocks Towards the Identity Function '
    'in Deep Networks", whose SkipInit trains residual networks without normalization',
    "https://arxiv.org/abs/2002.10444",
)
GHOST = Source(
    'Hoffer, Hubara & Soudry 2017, "Train longer, generalize better"; Summers & Dinneen 2020, '
    '"Four Things Everyone Should Know to Improve Batch Normalization"',
    "https://arxiv.org/abs/1705.08741",
)
FRANKLE = Source(
    'Frankle, Schwab & Morcos 2021, "Training BatchNorm and Only BatchNorm"; they set it against '
    "as many weights drawn at random, here it is set against the last layer",
    "https://arxiv.org/abs/2003.00152",
)
SMALL_ADAPTATION = Source(
    'Benz et al. 2021, "Revisiting Batch Normalization for Improving Corruption Robustness"; '
    'Nado et al. 2020, "Evaluating Prediction-Time Batch Normalization", of small batches',
    "https://arxiv.org/abs/2010.03630",
)
ARORA = Source(
    'Arora, Li & Lyu 2019, "Theoretical Analysis of Auto Rate-Tuning by Batch Normalization"; van '
    "Laarhoven 2017",
    "https://arxiv.org/abs/1812.03981",
)
SCHNEIDER = Source(
    'Schneider et al. 2020, "Improving robustness against common corruptions by covariate shift '
    'adaptation"; Nado et al. 2020, "Evaluating Prediction-Time Batch Normalization"',
    "https://arxiv.org/abs/2006.16971",
)
XIONG = Source(
    'Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture"',
    "https://arxiv.org/abs/2002.04745",
)
PERI_LN = Source(
    'Kim et al. 2025, "Peri-LN: Revisiting Normalization Layer in the Transformer Architecture"',
    "https://arxiv.org/abs/2502.02732",
)
DEPTH_CURSE = Source(
    'Sun et al. 2025, "The Curse of Depth in Large Language Models"',
    "https://arxiv.org/abs/2502.05795",
)
RMS_NORM = Source(
    'Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", who find no such difference',
    "https://arxiv.org/abs/1910.07467",
)
ONES = Source(
    "arXiv 2409.12951, which finds hidden states of trained language models orthogonal to ones",
    "https://arxiv.org/abs/2409.12951",
)
DYT = Source(
    'Zhu et al. 2025, "Transformers without Normalization", who find no such difference',
    "https://arxiv.org/abs/2503.10622",
)
DYT_DISPUTED = Source(
    "arXiv 2604.23434, on dynamic tanh with scarce and ample data, and the dispute about endpoints "
    "that followed",
    "https://arxiv.org/abs/2604.23434",
)
WORTSMAN = Source(
    'Wortsman et al. 2023, "Small-scale proxies for large-scale Transformer training '
    'instabilities"',
    "https://arxiv.org/abs/2309.14322",
)
FIXUP = Source(
    'Zhang, Dauphin & Ma 2019, "Fixup Initialization", which trains without normalization by '
    "another initialization; here it is the usual one",
    "https://arxiv.org/abs/1901.09321",
)
BF16 = Source(
    'Zamirai et al. 2020, "Revisiting BFloat16 Training", on updates that rounding cancels; of '
    "gains it is our reading",
    "https://arxiv.org/abs/2010.06192",
)
POWER_NORM = Source(
    'Shen et al. 2020, "PowerNorm: Rethinking Batch Normalization in Transformers"',
    "https://arxiv.org/abs/2003.07845",
)
CONTROL = Source(
    "a control of ours on the intervals that decide, which are those of Howard et al. 2021",
    "https://arxiv.org/abs/1810.08240",
)
