"""Examinations: the record between running a model and judging it. Plain values and numpy only.

Channels are numbered by C, batches by K, samples by N. Every fact that was not measured is None, an
empty tuple or an empty string, and a rule that needs it says so instead of guessing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray

BATCH_KINDS = ("batch", "instance")
"""Kinds of layer that may keep running statistics."""


ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half a unit in the last place of 1.0: the largest relative error of rounding."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Place:
    """The position of a normalization layer in the network, as one real forward showed it."""

    calls: int = 1  # times the layer ran in one forward
    fed_by: str = ""  # the operation that made its input: "conv", "linear", "norm", "add", ...
    fed_by_module: str = ""  # the module in which that operation ran
    bias_before: bool = False  # that operation adds a bias per channel
    sole_consumer: bool = False  # nothing but this layer reads that operation's output
    # largest p of a Dropout between the last normalization and this layer
    dropout_before: float = 0.0
    added_to_a_shortcut: bool = False  # the output reaches an addition before any weight
    # the output is averaged over all positions before any nonlinearity or weight
    pooled_next: bool = False
    # the operation that made its input puts the features on the last axis
    features_last: bool = False
    # a reshape has mixed features and positions: axis 1 only has the features' size
    features_scattered: bool = False
    axes_moved: bool = False  # axes were moved between that operation and the layer
    unused_children: tuple[str, ...] = ()  # modules inside the layer that the forward passed by
    input_shape: tuple[int, ...] = ()
    input_dtype: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured:
    """Measurements of a few batches at one normalization layer."""

    batches: int = 0  # K
    samples: int = 0  # N of the smallest batch
    values: int = 0  # values behind one statistic: per channel and batch, or per sample and group
    # With batch statistics in use and updates off ("reference"), over the channels:
    mean: Array | None = None  # mean over batches of the batch means
    var: Array | None = None  # mean over batches of the unbiased batch variances
    # variance of one batch's mean when batches are iid, in units of var
    mean_noise: Array | None = None
    # variance of the log of one batch's variance when batches are iid
    var_noise: Array | None = None
    # In eval mode:
    eval_mean: Array | None = None
    eval_var: Array | None = None
    # F = N Var_k(batch mean) / Var_n(sample mean); 1 for iid batches
    heterogeneity: Array | None = None
    # 5%, 50% and 95% quantile of the variance of one normalized set (per sample)
    set_var: tuple[float, ...] = ()
    set_mean_square: tuple[float, ...] = ()  # the same of the mean square
    input_non_finite: int = 0
    output_non_finite: int = 0
    input_largest: float | None = None  # the largest |x|
    # relative distance of its output from that of its own forward in float64
    precision_error: float | None = None
    in_half: tuple[str, ...] = ()  # what its own forward computes in 16 bits
    repeat_failure: str = ""  # why its own forward could not be repeated in float64
    eps_failure: str = ""  # why it could not be repeated at inputs as small as eps
    input_spread: float | None = None  # standard deviation of the input over everything
    # standard deviation of the normalized value over everything, without affine
    output_spread: float | None = None
    # relative change of sample 0's input when it comes alone instead of in its batch
    alone_input: float | None = None
    alone_output: float | None = None
    call_mean: Array | None = None  # [calls, C] where a layer runs several times in one forward
    call_var: Array | None = None
    gain: Array | None = None  # by which the normalized value was multiplied, per channel
    offset: Array | None = None  # that was added to it
    # output at an input whose variance is eps, relative to that at a large one
    eps_response: float | None = None
    # largest / smallest standard deviation along axis 1, and along the last axis
    axis_spread: tuple[float, ...] = ()
    # change of the output at positions of unchanged input when padding holds another content,
    # relative to the output's size
    padding_seen: float | None = None
    # the same at positions before those that changed, in a causal network
    later_seen: float | None = None
    padding: float | None = None  # share of positions that are padding
    # median over channels of |ln(variance with / without padding)|
    padding_effect: float | None = None
    dropout_ratio: float | None = None  # median over channels of variance with dropout / without


@dataclass(frozen=True, kw_only=True)
class Recognition:
    """What a module was taken for, why, and what a call showed that it does."""

    by: str  # as user_models.norm_layers.NormLayer.recognized_by
    explained: bool | None = None  # a call's output was a normalization of its input, or was not
    axis: str = ""  # of the channels: "1" or "last"
    centered: bool | None = None
    gain: str = ""  # "w", "1 + w", "none" or "other"
    bias: bool | None = None
    eps: float | None = None  # that a call showed


@dataclass(frozen=True, kw_only=True)
class UnknownNorm:
    """Something that looks like a normalization, and is no layer that is judged."""

    name: str  # of the module
    type: str
    reason: str
    function: bool = False  # it is a call of a function in this module's forward


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """One normalization layer."""

    name: str
    type: str = "BatchNorm2d"
    kind: str = "batch"  # "batch", "instance", "group", "layer" or "rms"
    foreign: bool = False  # not one of torch's own classes; recognized by its buffers or parameters
    sync: bool = False
    features: int = 0  # channels, or the size of the normalized shape
    groups: int = 0
    normalized_dims: int = 0
    eps: float | None = None
    momentum: float | None = None
    cumulative: bool = False  # momentum=None: a cumulative average
    tracks: bool | None = None  # track_running_stats; None where there is no such flag
    live: bool = False  # in train mode a forward uses the batch's statistics
    affine_names: tuple[str, ...] = ()  # those of "weight", "bias" that are parameters
    weight: Array | None = None
    bias: Array | None = None
    running_mean: Array | None = None
    running_var: Array | None = None
    updates: int | None = None  # num_batches_tracked
    parameter_dtype: str = ""
    statistics_dtype: str = ""
    training: bool | None = None
    training_after_eval: bool | None = None  # its mode once model.eval() was called
    training_after_train: bool | None = None  # its mode once model.train() was called
    # a parameter of the layer requires a gradient; None without parameters
    trainable: bool | None = None
    # a parameter of the smallest enclosing module with other weights does
    scope_trainable: bool | None = None
    optimized: bool | None = None  # all its trainable parameters are in the optimizer
    scope_optimized: bool | None = None  # a weight of that enclosing module is in the optimizer
    weight_decay: float | None = None  # the largest that the optimizer applies to it
    optimizer: str = ""  # that holds its weight
    step_size: float | None = None  # the largest step that it takes at one of its weights
    left_in_eval: str = ""  # the part around it in eval mode, whose other weights are trained
    place: Place | None = None
    measured: Measured | None = None
    recognition: Recognition | None = None

    @property
    def tracked(self) -> bool:
        """The layer holds running statistics."""
        return self.running_mean is not None and self.running_var is not None

    @property
    def at_initialization(self) -> bool:
        """The running statistics are exactly those of a new layer: mean 0, variance 1."""
        mean, var = self.running_mean, self.running_var
        return mean is not None and var is not None and bool(np.all(mean == 0) and np.all(var == 1))

    @property
    def affine_trained(self) -> bool:
        """The affine parameters have moved. Initializations leave the bias constant, many also the
        weight (at 1, or 0 on residual branches), so the bias tells where there is one.
        """
        telling = self.bias if self.bias is not None else self.weight
        if telling is None or not len(telling):
            return False
        if len(telling) == 1:
            return bool(telling[0] not in (0.0, 1.0))
        return bool(np.any(telling != telling[0]))


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The optimizer that was given along with the model."""

    type: str
    holds: int  # of the model's parameters, how many
    wide_copies: bool = False  # it holds fp32 copies of a model in 16 bits
    steps: int | None = None  # steps taken, where its state tells


@dataclass(frozen=True, kw_only=True)
class Loader:
    """The settings of a data loader, read without running it."""

    type: str
    batch_size: int | None = None
    samples: int | None = None
    drop_last: bool | None = None
    sampler: str = ""
    shuffles: bool | None = None
    # mean length of runs of one label, over that of shuffled labels
    label_runs: float | None = None
    labels_in_batches: float | None = None  # as in Forward


@dataclass(frozen=True, eq=False, kw_only=True)
class Forward:
    """A model's outputs on a few batches. "eval" is eval mode; "batch" is batch statistics."""

    batch_sizes: tuple[int, ...] = ()
    device: str = ""
    reduced_precision: bool = False
    # relative difference of two eval forwards of the same samples
    repeat_difference: float | None = None
    companions_difference: float | None = None  # of a sample in its batch and alone, in eval mode
    companions_failure: str = ""
    # where F.batch_norm(training=True) ran in eval mode
    functional_batch_norm: tuple[str, ...] = ()
    moved_buffers: tuple[str, ...] = ()  # that an eval forward changed
    bare_head: str = ""  # the head that reads a residual stream without a normalization
    stream_readers: tuple[str, ...] = ()  # normalization layers that read that stream
    stream_of_tokens: bool = False  # it begins with an embedding
    batch_failure: str = ""  # why the pass with batch statistics failed
    train_failure: str = ""  # why a forward in the model's own train mode failed
    train_failure_at: str = ""  # the innermost module in which it failed
    samples: int = 0  # samples behind the comparison below
    # relative L2 difference of eval outputs and batch outputs (remixed batches)
    gap: float | None = None
    # relative L2 difference of batch outputs in two compositions, / sqrt 2
    composition_noise: float | None = None
    disagreement: float | None = None  # share of samples whose class differs, eval against batch
    composition_disagreement: float | None = None  # the same between two compositions
    has_targets: bool = False
    eval_correct: float | None = None  # share
    batch_correct: float | None = None  # batches as given
    remixed_correct: float | None = None  # the same samples in other batches
    only_eval_correct: int = 0  # samples that only eval gets right, against remixed
    only_batch_correct: int = 0
    # samples that only the given composition gets right, against remixed
    only_given_correct: int = 0
    only_remixed_correct: int = 0
    classes: int = 0
    # chi-square / degrees of freedom of labels against batches; 1 if shuffled
    labels_in_batches: float | None = None
    label_freedom: int = 0  # those degrees of freedom


@dataclass(frozen=True, eq=False, kw_only=True)
class PairedLayer:
    """One normalization layer that two models share by name."""

    name: str
    type: str  # "" where the class is not known
    other_type: str
    statistics_equal: bool | None = None  # bitwise
    affine_equal: bool | None = None
    # 95% quantile of |difference of running means| / the other's sd
    mean_distance: float | None = None
    var_distance: float | None = None  # 95% quantile of |ln(ratio of running variances)|
    at_initialization: bool = False
    other_at_initialization: bool = False
    gains_new: bool = False  # weight and bias are those of a new layer
    other_gains_new: bool = False
    gains_distance: float | None = None  # relative L2 distance of weight and bias
    gain_offset: float | None = None  # 1 or -1, where the other's weight is ours with it added
    gain_sizes: tuple[int, int] | None = None  # of the weight here and there, where they differ
    updates: int | None = None
    other_updates: int | None = None
    eps: float | None = None
    other_eps: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Pair:
    """Two models that should agree, side by side."""

    layers: tuple[PairedLayer, ...] = ()
    only_here: tuple[str, ...] = ()  # normalization layers that the other lacks
    only_there: tuple[str, ...] = ()
    prefix: str = ""  # as of Keys, of the other's names
    # relative L2 distance of all other shared weights; None without shared ones
    weight_distance: float | None = None
    output_difference: float | None = None  # relative, in eval mode
    output_failure: str = ""
    other_companions_difference: float | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Keys:
    """The differences between the keys of a state_dict and those of the model that it is for."""

    norms: tuple[str, ...] = ()  # the model's normalization layers
    prefix: str = ""  # that stands before every name of the state, and of none of the model
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerHistory:
    """One layer over time, as a recording or a training loop showed it."""

    name: str
    kind: str = "batch"
    steps: int = 0  # optimizer steps seen
    updates: int | None = None  # updates of the running statistics in those steps
    calls: int = 1  # in one forward of the model
    updates_in_backward: int = 0  # forwards repeated under activation checkpointing
    updates_without_grad: int = 0
    first_without_grad: int | None = None  # the step
    steps_in_eval: int = 0
    first_in_eval: int | None = None  # the step
    trainable: bool | None = None
    declared_frozen: bool = False
    drifted_at: int | None = None  # the step at which a frozen layer's statistics moved
    first_non_finite: int | None = None
    samples: int | None = None  # N per update
    lag: tuple[float, ...] = ()  # 95% quantile of |running mean - batch mean| / sd, at lag_steps
    lag_steps: tuple[int, ...] = ()
    weight_moved: bool | None = None
    weight_size: float | None = None  # median of |weight|, at last
    parameter_dtype: str = ""
    optimizer: str | None = None  # that was seen to step its weight, "" for none
    scope_optimized: bool | None = None  # one was seen to step a weight around it
    step_size: float | None = None  # the largest step that it takes at one of its weights
    left_in_eval: str = ""  # as of Layer, when the training began
    gradient_zero: bool | None = None  # the gradient of the weight was zero at every step
    stream: tuple[float, ...] = ()  # beside it at the end, in the order of STREAM
    attention: tuple[float, ...] = ()  # at the end, in the order of ATTENTION
    token_cosine: float | None = None  # at the end
    graded: bool | None = None  # its weight had a gradient at some step that was seen
    rank_distance: float | None = None  # largest distance between two ranks' running means, in sd
    ranks_apart_at: int | None = None  # first step at which that was too large
    rank_gains_apart_at: int | None = None  # first step whose weights or biases are not the same


@dataclass(frozen=True, kw_only=True)
class History:
    """A training over time, as a recording or a loop showed it."""

    layers: tuple[LayerHistory, ...] = ()
    steps: int = 0
    accumulation: int | None = None  # backwards in most optimizer steps, where there are several
    penalties: int = 0  # gradients with respect to an input that were differentiated once more
    # forwards with a backward of their own, where they are more than the steps
    batches: int | None = None

    def expected(self, layer: LayerHistory) -> float:
        """Updates per optimizer step of a layer with one in each forward that has a backward."""
        return max(1.0, (self.batches or 0) / max(layer.steps, 1)) * layer.calls


@dataclass(frozen=True, eq=False, kw_only=True)
class Examination:
    """Everything that rules may ask for. `judge` turns it into a report."""

    source: str = "model"  # "model", "state_dict", "loader" or "recording"
    model: str = ""
    training: bool | None = None
    wrapper: str = ""  # "DistributedDataParallel", "DataParallel" or ""
    broadcasts_buffers: bool | None = None
    devices: int = 1  # devices over which DataParallel splits a batch
    world_size: int = 1
    export: bool = False
    was_trained: bool | None = None  # parameters hold gradients, or were written to many times
    layers: tuple[Layer, ...] = ()
    optimizer: Optimizer | None = None
    loader: Loader | None = None
    forward: Forward | None = None
    pair: Pair | None = None
    keys: Keys | None = None
    history: History | None = None
    unknown: tuple[UnknownNorm, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def untrained(self) -> bool:
        """Nothing has moved yet in layers with running statistics: no statistic, no parameter."""
        layers = [layer for layer in self.of_kind(*BATCH_KINDS) if layer.live and layer.tracked]
        return bool(layers) and not any(
            layer.updates or layer.affine_trained or not layer.at_initialization for layer in layers
        )

    def of_kind(self, *kinds: str) -> tuple[Layer, ...]:
        """The layers of these kinds."""
        return tuple(layer for layer in self.layers if layer.kind in kinds)
