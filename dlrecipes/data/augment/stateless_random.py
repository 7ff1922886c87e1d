"""Random numbers that are a function of (seed, epoch, index, stream): the same on each device and in each batch.

No generator is kept, so there is nothing to save for a resume, and a batch's composition changes nothing.
"""

from __future__ import annotations

from torch import Tensor, arange, int64

__all__ = ["uniform"]

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(seed: int, epoch: int, index: Tensor, streams: int) -> Tensor:
    """Independent uniform numbers for each sample: the upper 24 bits of a hash, so they are exact in float32.

    The mixing function is that of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
    generators"), applied to the sample and then to the stream. It is integer arithmetic, hence equal on all devices.

    Args:
        seed, epoch: of the run.
        index: int64 [B], which sample; on the device where the numbers are wanted.
        streams: how many numbers a sample gets; number k is the same, however many follow it.

    Returns:
        float32 [B, streams] in [0, 1), multiples of 2⁻²⁴.

    Example:
        >>> import torch
        >>> whole, alone = uniform(0, 1, torch.arange(4), 3), uniform(0, 1, torch.tensor([2]), 5)
        >>> torch.equal(whole[2], alone[0, :3])
        True
    """
    base = _mix_number(_mix_number(seed + _GOLDEN) + epoch)
    sample = _mix(index.to(int64) * _signed(_GOLDEN) + _signed(base))
    stream = arange(1, streams + 1, device=index.device) * _signed(_GOLDEN)
    bits = _mix(sample[:, None] + stream)
    return _shifted(bits, 40).float() * 2.0**-24


def _signed(value: int) -> int:
    """The 64 bits as a signed number: torch has no unsigned arithmetic."""
    value &= _MASK
    return value - 2**64 if value >= 2**63 else value


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Shift right, filling with zeros: ``>>`` copies the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _signed(_FIRST)
    bits = (bits ^ _shifted(bits, 27)) * _signed(_SECOND)
    return bits ^ _shifted(bits, 31)


def _mix_number(value: int) -> int:
    """`_mix` of one Python integer."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)
