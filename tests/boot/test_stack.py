"""Return addresses on a kernel stack: in the kernel's code, and in that of modules."""

from pathlib import Path

from dpamt.boot.stack import KernelMemory, callers
from dpamt.kernel_image.vmlinux import KernelImage
from tests.boot.small_kernel import BASE, SmallKernel

STACK = 0xFFFF_8880_0000_1000
MODULE = 0xFFFF_FFFF_C000_0000
CODE = bytes.fromhex("90 90 e8 00 00 00 00 90 90 90 90 ff d0 90 90 90")
"""Two calls, the direct one ends at byte 7, the indirect one at byte 13."""


class Kernel(KernelMemory):
    """Words by address, without page tables."""

    def __init__(self, words: dict[int, int]) -> None:
        self._words = words

    def read64(self, address: int) -> int | None:
        return self._words.get(address)


def words_of(address: int, data: bytes) -> dict[int, int]:
    parts = range(0, len(data), 8)
    return {address + at: int.from_bytes(data[at : at + 8], "little") for at in parts}


def test_modules_have_their_own_code_on_stacks(tmp_path: Path) -> None:
    kernel = SmallKernel()
    kernel.functions = {"caller": bytes.fromhex("9090e800000000c3"), **kernel.functions}
    image = KernelImage(kernel.write(tmp_path / "vmlinux"))
    on_stack = [BASE + 7, 0x1234, MODULE + 7, MODULE + 8, MODULE + 13, BASE + 8, MODULE + 0x800]
    words = words_of(STACK, b"".join(word.to_bytes(8, "little") for word in on_stack))
    memory = Kernel(words | words_of(MODULE, CODE))
    assert callers(memory, image, STACK, most=9) == [BASE + 7]
    is_module = range(MODULE, MODULE + 0x1000).__contains__
    found = callers(memory, image, STACK, 9, is_module)
    assert found == [BASE + 7, MODULE + 7, MODULE + 13]
    assert callers(memory, image, STACK, 2, is_module) == found[:2]
