"""Published figures of accelerators, one row a chip, each with its source. Knows no jax."""

import dataclasses
import os

GIB = 2**30
GBIT = 1e9 / 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What utilisation, rooflines and the memory check are made of; bandwidths are bytes per second, each way."""

    name: str
    platform: str
    """What jax lowers for: tpu, cuda or cpu."""
    flops: float
    """Dense bfloat16 FLOP/s."""
    hbm_bytes: float
    """Memory that a program may fill: on TPUs the compiler's own limit, a little under what is published."""
    hbm_bandwidth: float
    link_bandwidth: float
    """One link to a neighbour on the torus (TPU), or all NVLinks of a GPU together."""
    network_bandwidth: float
    """This chip's share of the network between hosts (GPU) or between slices (TPU)."""
    kinds: tuple[str, ...] = ()
    """How jax's `device_kind` begins on it."""
    devices: int = 1
    """Devices that jax sees of one chip; the figures above are one device's."""
    source: str


_TPU_DOCS = "https://cloud.google.com/tpu/docs/"
_PHYSICAL = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

# TPUs: the documentation gives the interconnect of a chip both ways together; a link's share, one way, is that over
# twice its ports (6 on three-dimensional tori, 4 on flat ones). GPUs: SXM modules, eight a host with one network card
# each, as in NVIDIA's DGX systems.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            platform="tpu",
            kinds=("TPU v4",),
            flops=275e12,
            hbm_bytes=30.75 * GIB,
            hbm_bandwidth=1228e9,
            link_bandwidth=50e9,
            network_bandwidth=25 * GBIT,
            source=f"{_TPU_DOCS}v4 (275 TFLOPs, 32 GiB at 1,228 GB/s, 6 links of 50 GB/s; network: as v5e)",
        ),
        Chip(
            name="v5e",
            platform="tpu",
            kinds=("TPU v5 lite", "TPU v5e"),
            flops=197e12,
            hbm_bytes=15.75 * GIB,
            hbm_bandwidth=819e9,
            link_bandwidth=50e9,
            network_bandwidth=25 * GBIT,
            source=f"{_TPU_DOCS}v5e (197 TFLOPs, 16 GB at 819 GB/s, 400 GB/s on 4 ports, 6.4 Tbit/s a pod of 256)",
        ),
        Chip(
            name="v5p",
            platform="tpu",
            kinds=("TPU v5",),
            flops=459e12,
            hbm_bytes=95.74 * GIB,
            hbm_bandwidth=2765e9,
            link_bandwidth=100e9,
            network_bandwidth=50 * GBIT,
            source=f"{_TPU_DOCS}v5p (459 TFLOPs, 95 GiB at 2,765 GB/s, 1,200 GB/s on 6 ports, 50 Gbit/s network)",
        ),
        Chip(
            name="v6e",
            platform="tpu",
            kinds=("TPU v6 lite", "TPU v6e"),
            flops=918e12,
            hbm_bytes=31.25 * GIB,
            hbm_bandwidth=1638e9,
            link_bandwidth=100e9,
            network_bandwidth=100 * GBIT,
            source=f"{_TPU_DOCS}v6e (918 TFLOPs, 32 GB at 1,638 GB/s, 800 GB/s on 4 ports, 100 Gbit/s network)",
        ),
        Chip(
            name="tpu7x",
            platform="tpu",
            kinds=("TPU7x",),
            flops=2307e12 / 2,
            hbm_bytes=94.75 * GIB,
            hbm_bandwidth=7380e9 / 2,
            link_bandwidth=100e9 / 2,
            network_bandwidth=100 * GBIT / 2,
            devices=2,
            source=f"{_TPU_DOCS}tpu7x (2,307 TFLOPs, 192 GiB at 7,380 GB/s, 1,200 GB/s, 100 Gbit/s; a device is half)",
        ),
        Chip(
            name="a100",
            platform="cuda",
            kinds=("NVIDIA A100",),
            flops=312e12,
            hbm_bytes=85_100_068_864,
            hbm_bandwidth=2039e9,
            link_bandwidth=300e9,
            network_bandwidth=200 * GBIT,
            source="NVIDIA A100 80 GB SXM data sheet (312 TFLOPs, 2,039 GB/s, NVLink 600 GB/s); DGX A100: 200 Gbit/s",
        ),
        Chip(
            name="h100",
            platform="cuda",
            kinds=("NVIDIA H100",),
            flops=989e12,
            hbm_bytes=84_942_979_072,
            hbm_bandwidth=3350e9,
            link_bandwidth=450e9,
            network_bandwidth=400 * GBIT,
            source="NVIDIA H100 SXM data sheet (989 TFLOPs dense, 3.35 TB/s, NVLink 900 GB/s); DGX H100: 400 Gbit/s",
        ),
        Chip(
            name="h200",
            platform="cuda",
            kinds=("NVIDIA H200",),
            flops=989e12,
            hbm_bytes=151_397_597_184,
            hbm_bandwidth=4800e9,
            link_bandwidth=450e9,
            network_bandwidth=400 * GBIT,
            source="NVIDIA H200 SXM data sheet (989 TFLOPs dense, 4.8 TB/s, NVLink 900 GB/s); DGX H200: 400 Gbit/s",
        ),
        Chip(
            name="b200",
            platform="cuda",
            kinds=("NVIDIA B200",),
            flops=2250e12,
            hbm_bytes=191_514_411_008,
            hbm_bandwidth=7700e9,
            link_bandwidth=900e9,
            network_bandwidth=400 * GBIT,
            source="NVIDIA HGX B200 data sheet (2.25 PFLOPs dense, 7.7 TB/s, NVLink 1.8 TB/s); DGX B200: 400 Gbit/s",
        ),
        Chip(
            name="cpu",
            platform="cpu",
            flops=100e9,
            hbm_bytes=_PHYSICAL,
            hbm_bandwidth=10e9,
            link_bandwidth=10e9,
            network_bandwidth=10e9,
            source="nominal: devices of this machine's processor, to try a plan out; no published figure",
        ),
    )
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that calls itself so, None where it is not in the table; the longest beginning counts."""
    matches = [(len(kind), chip) for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(matches, key=lambda match: match[0])[1] if matches else None
