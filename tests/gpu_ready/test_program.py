"""Tests of the reader of XLA's programs and of each regression to find."""

import pytest

from tests.gpu_ready import cases, table
from tests.gpu_ready.program import Program, size

PASS = """
HloModule step, is_scheduled=true

%fused (p: bf16[4,8,8,2]) -> bf16[4,8,8,2] {
  %p = bf16[4,8,8,2]{3,2,1,0} parameter(0)
  ROOT %m = bf16[4,8,8,2]{3,2,1,0} multiply(%p, %p), metadata={op_name="a(b)"}
}

ENTRY %main (a: bf16[4,8,8,2], w: bf16[2,3,3,2]) -> (bf16[4,8,8,2], f32[]) {
  %a = bf16[4,8,8,2]{3,2,1,0} parameter(0)
  %w = bf16[2,3,3,2]{3,2,1,0} parameter(1)
  %f = bf16[4,8,8,2]{3,2,1,0} fusion(%a), kind=kLoop, calls=%fused
  %c = (bf16[4,8,8,2]{3,2,1,0}, /*index=1*/u8[0]{0}) custom-call(%f, %w), \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %g = bf16[4,8,8,2]{3,2,1,0} get-tuple-element(%c), index=0
  %z = f32[] constant(0)
  ROOT %t = (bf16[4,8,8,2]{3,2,1,0}, f32[]) tuple(%g, %z)
}
"""
IMAGES = 4 * 8 * 8 * 2 * 2


def errors(text, part="pass", precision="bfloat16"):
    return cases.program_errors(
        Program.parse(text), part=part, precision=precision
    )


def test_a_program_is_measured():
    program = Program.parse(PASS)
    assert program.launches == 2
    # The fusion reads and writes images; the convolution reads filters, too.
    assert program.bytes == 4 * IMAGES + 2 * 3 * 3 * 2 * 2
    assert program.convolutions == ["bf16 b01f"]
    assert program.count("multiply") == 1
    assert errors(PASS) == []


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [("f32[]", 4), ("(pred[3]{0}, s64[2,2]{1,0})", 35), ("bf16[0]", 0)],
)
def test_bytes_of_a_shape(shape, wanted):
    assert size(shape) == wanted


@pytest.mark.parametrize("opcode", ["conditional", "while", "sort", "scatter"])
def test_a_planted_operation_is_found(opcode):
    planted = PASS.replace("multiply(", f"{opcode}(")
    (error,) = errors(planted)
    assert opcode in error
    assert bool(errors(planted, part="augment")) == (opcode != "scatter")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("c = (bf16", "c = (f32", "convolution of f32 b01f, not bf16 b01f"),
        ("=b01f_", "=bf01_", "convolution of bf16 bf01, not bf16 b01f"),
    ],
)
def test_a_planted_convolution_is_found(old, new, said):
    planted = PASS.replace(old, new)
    assert said in errors(planted)[0]
    assert errors(planted, precision="float32") == []


def test_a_fifth_more_bytes_or_launches_are_found():
    limits = {"launches": 100, "gigabytes": 5.0}
    assert cases.limit_errors(limits, limits) == []
    slow = {"launches": 101, "gigabytes": 6.0}
    assert cases.limit_errors(slow, limits) == ["gigabytes: 6, above 5"]
    many = {"launches": 120, "gigabytes": 4.0}
    assert cases.limit_errors(many, limits) == ["launches: 120, above 100"]


def test_what_is_not_a_program_is_refused():
    with pytest.raises(ValueError, match="entry"):
        Program.parse("HloModule empty\n")


def test_the_table_of_the_page_is_made_from_the_limits():
    page = table.PAGE.read_text()
    assert table.with_table(page) == page, "python -m tests.gpu_ready.table"
    assert all(case.name in page for case in cases.CASES)
    assert cases.read_limits().keys() == {case.name for case in cases.CASES}
