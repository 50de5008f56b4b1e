"""The functions of an image that a kernel calls, with the arguments that they have in C.

Source: merged 86305da521d1 "KVM/TDX: Allocate PAMT memory for TD and vCPU control structures",
2c8ca2ba9bb6 "x86/virt/tdx: Add APIs to support Dynamic PAMT ops from KVM's fault path", both of
2026-09-04.
"""

from typing import Final

from dpamt.host.core.kernel import Cpu, Kernel
from dpamt.host.core.page_cache import SITE_CACHE, SITE_PAIR, PamtCache
from dpamt.host.designs.base import Helpers
from dpamt.kernel_image.elf import ElfImage
from dpamt.kernel_image.linked import LinkedImage
from dpamt.verify.learn.shown import Fixed
from dpamt.verify.machine_code.cache import bytes_of_cache, cache_after
from dpamt.verify.machine_code.code import MachineCode
from dpamt.verify.machine_code.memory import ARGUMENTS, STRUCT_PAGE, VMEMMAP

TOPUP: Final = "tdx_topup_pamt_cache"
FREE_CACHE: Final = "tdx_free_pamt_cache"
ALLOC_CONTROL: Final = "tdx_alloc_control_page"
FREE_CONTROL: Final = "tdx_free_control_page"
HELPERS: Final = (TOPUP, FREE_CACHE, ALLOC_CONTROL, FREE_CONTROL)


def helpers_of(image: ElfImage, get: str) -> dict[str, str]:
    """By their names: the symbols of the helpers that an image has.

    A kernel's helpers call the kernel's get; so where get is a module's, only those of that module
    and of later ones are its helpers.
    """
    found = {}
    for name in HELPERS:
        full = image.beside(get, (name,), True) if isinstance(image, LinkedImage) else name
        symbol = image.symbols.get(full)
        if symbol is not None and symbol.is_function:
            found[name] = full
    return found


class ImageFunctions(Fixed):
    """Get, put and the helpers around them."""

    def __init__(self, code: MachineCode, get: str, put: str) -> None:
        self._code = code
        self._helpers = helpers_of(code.places.image, get)
        code.roots = get, put, *self._helpers.values()
        self._get = get
        self._put = put

    def has(self, name: str) -> bool:
        """Whether the image has the helper."""
        return name in self._helpers

    def helpers(self) -> Helpers:
        """Those that the image has."""
        return Helpers(
            self._topup if self.has(TOPUP) else None,
            self._free_cache if self.has(FREE_CACHE) else None,
            self._alloc_control if self.has(ALLOC_CONTROL) else None,
            self._free_control if self.has(FREE_CONTROL) else None,
        )

    def prepare(self, kernel: Kernel) -> int:
        """Before any thread runs."""
        self._code.prepare(kernel)
        return 0

    def get(self, kernel: Kernel, cpu: Cpu, pfn: int, cache: PamtCache | None) -> int:
        """tdx_pamt_get(pfn, cache)."""
        own = bytes_of_cache(cache)
        arguments = pfn, ARGUMENTS if cache is not None else 0
        place = self._code.call(kernel, cpu, self._get, arguments, own, pages=(pfn,))
        cache_after(self._code.places, place, cache)
        return self._code.value(place)

    def put(self, kernel: Kernel, cpu: Cpu, pfn: int) -> None:
        """tdx_pamt_put(pfn)."""
        self._code.call(kernel, cpu, self._put, (pfn,), pages=(pfn,))

    def _topup(self, kernel: Kernel, cache: PamtCache, pairs: int) -> int:
        own = bytes_of_cache(cache)
        cpu, sites = kernel.cpus[0], (SITE_CACHE,)  # it makes no SEAMCALL
        place = self._code.call(kernel, cpu, self._helpers[TOPUP], (ARGUMENTS, pairs), own, sites)
        cache_after(self._code.places, place, cache)
        return self._code.value(place)

    def _free_cache(self, kernel: Kernel, cache: PamtCache) -> None:
        own = bytes_of_cache(cache)
        name = self._helpers[FREE_CACHE]
        place = self._code.call(kernel, kernel.cpus[0], name, (ARGUMENTS,), own)
        cache_after(self._code.places, place, cache)

    def _alloc_control(self, kernel: Kernel, cpu: Cpu, site: str) -> int | None:
        name = self._helpers[ALLOC_CONTROL]
        place = self._code.call(kernel, cpu, name, (), (), (site, *SITE_PAIR))
        page = self._code.long_value(place)
        return (page - VMEMMAP) // STRUCT_PAGE if page else None

    def _free_control(self, kernel: Kernel, cpu: Cpu, pfn: int) -> None:
        name = self._helpers[FREE_CONTROL]
        self._code.call(kernel, cpu, name, (VMEMMAP + STRUCT_PAGE * pfn,))
