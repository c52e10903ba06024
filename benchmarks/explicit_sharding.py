"""Who should place the collectives where weights are split over fsdp and tensor: XLA, or jax's explicit sharding?

  python benchmarks/explicit_sharding.py [--kind=automatic|pinned|explicit|unreduced] [--topology=v5p:4x4x4]

Twelve blocks of the shape of GPT-3 6B, without attention's mixing, on fsdp 16 x tensor 4, compiled for chips that are
not there. `automatic` leaves all to XLA, `pinned` constrains each weight to be whole over fsdp where it is used,
`explicit` does so with explicit axes, and `unreduced` also types the gradient of such a weight as a sum that is still
to be done, so that it must become a reduce-scatter. Needs the extra `tpu` and jax 0.12.

Shapes: B batch, T position, D model width, F feed-forward width.
"""

import argparse
import contextlib
import functools
import os
import subprocess
import sys

KINDS = ("automatic", "pinned", "explicit", "unreduced")
N, B, T, D, F = 12, 32, 2048, 3072, 12288
FSDP, TENSOR = 16, 4


def measure(kind: str, topology: str) -> str:
    """Compiles one kind and returns its line of the table."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import jax
    import jax.numpy as jnp
    from jax.experimental import mesh_utils
    from jax.sharding import AxisType, Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    from gptjax.plan import collectives, hlo
    from gptjax.plan.topology import open_fleet, start_no_chip

    start_no_chip()
    devices = open_fleet(topology).devices
    grid = mesh_utils.create_device_mesh((FSDP, TENSOR), devices, allow_split_physical_axes=True)
    by_xla = kind in ("automatic", "pinned")
    mesh = Mesh(grid, ("fsdp", "tensor"), axis_types=(AxisType.Auto if by_xla else AxisType.Explicit,) * 2)
    narrow, wide = P("fsdp", None, None), P("fsdp", None, "tensor")
    into, out_of = P("fsdp", "tensor"), P("tensor", "fsdp")
    weights = {name: ((D, D), into) for name in ("query", "key", "value")}
    weights |= {"output": ((D, D), out_of), "up": ((D, F), into), "down": ((F, D), out_of)}

    def whole(weight, spec):
        axes = (axis if axis == "tensor" else None for axis in spec)
        weight = weight.astype(jnp.bfloat16)
        if kind == "automatic":
            return weight
        if kind == "pinned":
            return jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, P(*axes)))
        return jax.reshard(weight, P(*axes, reduced={"fsdp"}) if kind == "unreduced" else P(*axes))

    def product(x, weight, spec):
        if by_xla:
            return jax.lax.with_sharding_constraint(x @ weight, NamedSharding(mesh, spec))
        return jnp.einsum("BTi,ij->BTj", x, weight, out_sharding=spec)

    @jax.checkpoint
    def block(x_BTD, kernels):
        w = {name: whole(kernel, weights[name][1]) for name, kernel in kernels.items()}
        query, key, value = (product(x_BTD, w[name], wide) for name in ("query", "key", "value"))
        x_BTD = x_BTD + product(jnp.tanh(query * key) * value, w["output"], narrow)
        return x_BTD + product(jax.nn.gelu(product(x_BTD, w["up"], wide)), w["down"], narrow), None

    def loss(params, x_BTD):
        return jnp.sum(jax.lax.scan(block, x_BTD, params)[0].astype(jnp.float32) ** 2)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(params, x_BTD):
        return jax.tree.map(jnp.subtract, params, jax.grad(loss)(params, x_BTD))

    def array(shape, spec, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    params = {name: array((N, *shape), P(None, *spec), jnp.float32) for name, (shape, spec) in weights.items()}
    with contextlib.nullcontext() if by_xla else jax.set_mesh(mesh):
        lowered = step.trace(params, array((B, T, D), narrow, jnp.bfloat16)).lower(lowering_platforms=("tpu",))
    compiled = lowered.compile()
    moved = collectives.transfers(hlo.parse(compiled.as_text()), mesh.shape)
    cells = [compiled.memory_analysis().peak_memory_in_bytes, *collectives.by_kind(moved).values()]
    total = sum(collectives.by_kind(moved).values())
    return f"| {kind} | " + " | ".join(f"{cell / 2**30:.2f}" for cell in (*cells, total)) + " |"


def main() -> None:
    """Prints a table; each kind is compiled in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--topology", default="v5p:4x4x4")
    args = parser.parse_args()
    if args.kind:
        print(measure(args.kind, args.topology))
        return
    print("| GiB | peak | all-gather | reduce-scatter | all-reduce | all-to-all | collective-permute | wires in all |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for kind in KINDS:
        subprocess.run([sys.executable, __file__, f"--kind={kind}", f"--topology={args.topology}"], check=True)


if __name__ == "__main__":
    main()
