"""The guests of a boot's TDs: one for each vCPU that the kernel makes."""

from collections import Counter

from dpamt.abi.leaves import TDH_VP_ENTER, TDH_VP_INIT
from dpamt.abi.pages import PAGE_SHIFT
from dpamt.abi.status import TDX_SUCCESS
from dpamt.boot.kvm.guest import WordGuest
from dpamt.module.module import TdxModule


class Guests:
    """Puts a :class:`WordGuest` on each vCPU as it is initialised."""

    def __init__(self) -> None:
        self._all: list[WordGuest] = []
        self._of: dict[int, WordGuest] = {}
        """By the frame number of its TDVPR; a page that is a TDVPR again has a guest anew."""

    def answered(self, module: TdxModule, leaf: int, tdvpr: int, status: int) -> dict[str, int]:
        """A SEAMCALL was answered: registers beyond the usual ones that it gives back."""
        if leaf == TDH_VP_INIT and status == TDX_SUCCESS:
            guest = WordGuest()
            module.attach_guest(tdvpr, guest)
            self._all.append(guest)
            self._of[tdvpr >> PAGE_SHIFT] = guest
        elif leaf == TDH_VP_ENTER and not status >> 63:
            entered = self._of.get(tdvpr >> PAGE_SHIFT)
            if entered is not None:
                return entered.more
        return {}

    def refused(self) -> Counter[tuple[str, str]]:
        """(What guests asked, answer) of what did not succeed, and how often."""
        return sum((guest.refused for guest in self._all), Counter())
