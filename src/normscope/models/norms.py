"""Normalizations by name: factories from a number of channels to a module for (N, C, H, W)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from normscope.arguments import import_named
from normscope.errors import InputError, one_line, one_of

MEAN_RANGE = 0.5
"""A channel's mean shift in a step is uniform in +- this."""

GREATEST_SCALE = 1.25
"""A channel's mean factor in a step is uniform between 1 and this."""

MEAN_WIDTH = SCALE_WIDTH = 0.1
"""Each value's own shift is uniform in +- this; its factor is normal, of this deviation."""


class NoisyBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, behind which in train mode every value is multiplied and shifted at random.

    "Noisy" batch normalization of Santurkar et al. 2018 (arXiv:1805.11604, section 2.1 and
    appendix): each step draws for each channel a mean shift and a mean factor, and each value of
    each image draws its own around them. Each batch leaves the layer with another mean and
    variance, which the layer was to prevent. In eval mode there is no noise; the running statistics
    of layers behind others are then those of activations that had it, and fit badly. A watched
    layer's recording is of the normalization, before the noise.

    The noise of a step depends on the layer's seed and on the number of its forwards in train mode,
    which `num_batches_tracked` counts: a state dict is one of nn.BatchNorm2d, and from it training
    goes on with the noise that it would have had. No generator of others is moved but by the
    constructor. Reading the count waits for a GPU.

    Attributes:
        noise_seed: drawn by the constructor from torch's generator, as initial weights are; no part
            of the state dict.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features)
        self.noise_seed = int(torch.randint(2**31, (), device="cpu"))  # also of a trial on "meta"

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and type."""
        output = super().forward(input)
        return self._perturbed(output) if self.training else output

    def _perturbed(self, output: Tensor) -> Tensor:
        generator = torch.Generator(output.device).manual_seed(self._seed_of_step())
        means, scales = torch.empty(2, output.shape[1], 1, 1, device=output.device)
        means.uniform_(-MEAN_RANGE, MEAN_RANGE, generator=generator)
        scales.uniform_(1, GREATEST_SCALE, generator=generator)
        shift, scale = (torch.empty_like(output, dtype=torch.float32) for _ in range(2))
        shift.uniform_(-MEAN_WIDTH, MEAN_WIDTH, generator=generator)
        scale.normal_(0, SCALE_WIDTH, generator=generator)
        return (output * scale.add_(scales) + shift.add_(means)).to(output.dtype)

    def _seed_of_step(self) -> int:
        """Four bytes, which generators of all devices take."""
        assert self.num_batches_tracked is not None
        key = f"{self.noise_seed}:{int(self.num_batches_tracked)}"
        return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little")


NormFactory = Callable[[int], nn.Module]
"""Number of channels -> normalization layer."""

GROUPS = 8
"""Groups of the normalization called `group`."""


GHOST = 16
"""Images whose statistics normalize them: about as many, where a batch is no multiple."""


class GhostBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that in train mode normalizes every GHOST images of a batch by themselves.

    Ghost batch normalization of Hoffer et al. 2017 (arXiv:1705.08741): the noise of small batches
    at the speed of large ones. Running statistics remember as many batches as those of
    nn.BatchNorm2d; in eval mode the two are the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape and type."""
        if not self.training:
            return super().forward(input)
        assert self.momentum is not None
        assert self.num_batches_tracked is not None
        self._check_input_dim(input)
        self.num_batches_tracked.add_(1)
        parts = input.tensor_split(max(1, round(len(input) / GHOST)))
        momentum = 1 - (1 - self.momentum) ** (1 / len(parts))
        running = self.running_mean, self.running_var
        normalized = [
            F.batch_norm(part, *running, self.weight, self.bias, True, momentum, self.eps)
            for part in parts
        ]
        return torch.cat(normalized)


def _group(channels: int) -> nn.Module:
    if channels % GROUPS:
        raise InputError(
            f"Normalization 'group' cannot divide {channels} channels into {GROUPS} groups."
        )
    return nn.GroupNorm(GROUPS, channels)


def _layer(channels: int) -> nn.Module:
    return nn.GroupNorm(1, channels)


def _instance(channels: int) -> nn.Module:
    return nn.InstanceNorm2d(channels, affine=True)


def _none(channels: int) -> nn.Module:
    return nn.Identity()


class SkipInit(nn.Identity):
    """No normalization, in blocks that multiply their branch by a number that starts at 0.

    SkipInit of De & Smith 2020 (arXiv:2002.10444): a network begins as the identity, as batch
    normalization makes it nearly, and needs no normalization to be trained. The number is in the
    block's last convolution (`residual_blocks.BranchEnd`).
    """


NORMS: dict[str, NormFactory] = {
    "batch": nn.BatchNorm2d,
    "none": _none,
    "group": _group,
    "layer": _layer,
    "instance": _instance,
    "noisy-batch": NoisyBatchNorm2d,
    "ghost-batch": GhostBatchNorm2d,
}
"""The named factories. `none` is an identity: layers keep their names."""

RESIDUAL_NORMS = NORMS | {"skipinit": lambda channels: SkipInit()}
"""Those of networks that are made of residual blocks."""


def is_code(name: str) -> bool:
    """Return whether `name` has the form module:callable, so that resolving it runs user code."""
    return ":" in name


def resolve_norm(norm: str | NormFactory, norms: Mapping[str, NormFactory] = NORMS) -> NormFactory:
    """The factory behind a name, behind module:callable, or the factory that was given itself.

    `norms` has the names: NORMS, of maps, or those of another kind of network.

    module:callable is imported here: pass on only what comes from the command line or from Python,
    never from a file that was received (`is_code`).

    Raises:
        InputError: if the name is unknown, or the module or callable cannot be had. The factory
            raises one as well where a user's callable fails or returns something else than an
            nn.Module, and where the channels cannot be divided into groups.
    """
    if not isinstance(norm, str):
        return norm
    if is_code(norm):
        factory: NormFactory = import_named(norm, "Normalization")
        if not callable(factory):
            kind = type(factory).__name__
            raise InputError(f"Normalization {norm!r} is of type {kind}; expected a callable.")
        return _guarded(norm, factory)
    if norm not in norms:
        raise InputError(f"{one_of('normalization', norm, norms)} Or your own as module:callable.")
    return norms[norm]


def needs_bias(norm: nn.Module) -> bool:
    """Return whether a convolution before `norm` has a bias: exactly where nothing is normalized.

    A per-channel constant is what batch normalization subtracts; its own bias takes over.
    """
    return isinstance(norm, nn.Identity)


def _guarded(name: str, factory: NormFactory) -> NormFactory:
    """`factory`, its failures told to the user in one line."""

    def checked(channels: int) -> nn.Module:
        try:
            module = factory(channels)
        except (Exception, SystemExit) as error:
            raise InputError(
                f"Normalization {name!r} failed for {channels} channels: {one_line(error)}."
            ) from error
        if not isinstance(module, nn.Module):
            raise InputError(
                f"Normalization {name!r} returned a {type(module).__name__}; expected an nn.Module."
            )
        return module

    return checked
