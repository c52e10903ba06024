"""Bytes to and from main memory of small programs."""

from gptjax.plan import hlo
from gptjax.plan.traffic import hbm_bytes

HEAD = """\
HloModule m

%slice_inside (p0: f32[100,8], p1: s32[]) -> f32[1,8] {
  %p0 = f32[100,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %s = f32[1,8]{1,0} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,8}
}

%nested (q0: f32[100,8], q1: s32[], q2: f32[1,8]) -> f32[1,8] {
  %q0 = f32[100,8]{1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %q2 = f32[1,8]{1,0} parameter(2)
  %f = f32[1,8]{1,0} fusion(%q0, %q1), kind=kLoop, calls=%slice_inside
  ROOT %sum = f32[1,8]{1,0} add(%f, %q2)
}

%update (u0: f32[100,8], u1: s32[], u2: f32[1,8]) -> f32[100,8] {
  %u0 = f32[100,8]{1,0} parameter(0)
  %u1 = s32[] parameter(1)
  %u2 = f32[1,8]{1,0} parameter(2)
  ROOT %d = f32[100,8]{1,0} dynamic-update-slice(%u0, %u2, %u1)
}

ENTRY %main (a: f32[100,8], i: s32[], b: f32[1,8]) -> f32[100,8] {
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %b = f32[1,8]{1,0} parameter(2)
"""


def traffic(*lines):
    return hbm_bytes(hlo.parse(HEAD + "".join(f"  {line}\n" for line in lines) + "}\n"))


def test_plain_instructions_read_operands_and_write_results():
    assert traffic("ROOT %r = f32[100,8]{1,0} add(%a, %a)") == 3 * 3200
    assert traffic("%g = f32[100,8]{1,0} bitcast(%a)", "ROOT %t = (f32[100,8]) tuple(%g)") == 0


def test_what_is_sliced_or_updated_counts_its_slice():
    """Also through a fusion within a fusion."""
    assert traffic("ROOT %r = f32[1,8]{1,0} fusion(%a, %i, %b), kind=kLoop, calls=%nested") == 3 * 32
    assert traffic("ROOT %r = f32[100,8]{1,0} fusion(%a, %i, %b), kind=kLoop, calls=%update") == 2 * 32


def test_a_fusion_that_runs_asynchronously_counts_the_same():
    """Its result names its operands first, then what it writes, then a handle."""
    start = "%s = ((f32[100,8]{1,0}, s32[], f32[1,8]{1,0}), f32[100,8]{1,0}, s32[]) fusion-start(%a, %i, %b)"
    assert traffic(f"{start}, kind=kLoop, calls=%update", "ROOT %r = f32[100,8]{1,0} fusion-done(%s)") == 2 * 32


def test_other_memories_are_free():
    """A copy into a TPU's vector memory reads; what works on it there moves nothing."""
    copy = "%c = (f32[100,8]{1,0:S(1)}, f32[100,8]{1,0}, u32[]{:S(2)}) copy-start(%a)"
    done = "%v = f32[100,8]{1,0:S(1)} copy-done(%c)"
    assert traffic(copy, done, "ROOT %r = f32[100,8]{1,0:S(1)} add(%v, %v)") == 3200
