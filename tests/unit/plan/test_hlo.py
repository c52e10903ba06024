"""Programs as XLA prints them, in small."""

import pytest

from gptjax.plan import hlo

TEXT = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[]{:T(128)}, f32[8]{0:T(8,128)S(1)}) parameter(0)
  %inner = (s32[], f32[8]) while(%carry), condition=%bounded, body=%inner_body
  ROOT %next = (s32[], /*index=1*/f32[8]) tuple(%carry, %inner)
}

%inner_body (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = (s32[], f32[8]) parameter(0)
  ROOT %work = (s32[], f32[8]) custom-call(%x), custom_call_target="work"
}

%bounded (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]) parameter(0)
  %five = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %five), direction=LT
}

%unknown (c2: (s32[], f32[8])) -> pred[] {
  %c2 = (s32[], f32[8]) parameter(0)
  ROOT %is = pred[] custom-call(%c2), custom_call_target="more"
}

%short (s: f32[8]) -> f32[8] {
  ROOT %s = f32[8] parameter(0)
}

%long (l: f32[8]) -> f32[8] {
  %l = f32[8] parameter(0)
  ROOT %twice = f32[8] add(%l, %l)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  %start = (s32[], f32[8]) custom-call(%p), custom_call_target="start"
  %outer = (s32[], f32[8]) while(%start), condition=%unknown, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %endless = (s32[], f32[8]) while(%outer), condition=%unknown, body=%inner_body
  ROOT %either = f32[8] conditional(%p, %p, %p), branch_computations={%short, %long}
}
"""


@pytest.fixture(scope="module")
def module():
    return hlo.parse(TEXT)


def test_loops_inside_loops_multiply(module):
    """3 as the compiler noted, times 5 as the condition says; and once more in the loop whose length nobody knows."""
    assert [times for _, i, times in module.executed() if i.name == "work"] == [15, 1]
    assert module.loops_of_unknown_length == 1


def test_a_conditional_runs_its_longer_branch(module):
    names = {instruction.name for _, instruction, _ in module.executed()}
    assert "twice" in names
    assert "s" not in names


def test_results_have_sizes_and_memories(module):
    carry = module.computations["body"]["carry"]
    assert [(array.dtype, array.dims, array.space) for array in carry.result] == [("s32", (), 0), ("f32", (8,), 1)]
    assert hlo.num_bytes(carry.result) == 4 + 32
    assert module.computations["bounded"]["less"].operands == ("i", "five")
    assert hlo.num_bytes(hlo.arrays("(bf16[3,5]{1,0:T(8,128)(2,1)}, pred[7], s4[6], u32[]{:S(2)}, token[])")) == 44
