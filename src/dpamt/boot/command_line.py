"""The command line of the guest's kernel."""

from typing import Final

from dpamt.boot.outcome import BootOptions

_PLAIN: Final = (
    "console=ttyS0 earlyprintk=serial,ttyS0 nokaslr no_timer_check panic=-1 "
    "setcpuid=vmx,movdir64b,ss,xsave"
)
"""VMX and MOVDIR64B are what the kernel asks of a CPU for TDX and QEMU's TCG does not show.  On a
busy machine no tick may come in the time in which the kernel looks for one: no_timer_check, as
guests of KVM have it, or it panics ("IO-APIC + timer doesn't work")."""
_SAID: Final = "printk.devkmsg=on"
"""The VMM of --kvm writes its lines into the kernel's log, as many as it has."""
_HELD: Final = "tsc=unstable"
"""For runs in which CPUs are held: a change of clocksource, which the TSC brings about a second
after the start, stops all CPUs (timekeeping_notify(), stop_machine()) and would wait for them."""


def command_line(options: BootOptions) -> str:
    """What a boot with these options is given."""
    if not options.tdx:
        return " ".join(filter(None, (_PLAIN.partition(" setcpuid")[0], options.append)))
    said = _SAID if options.kvm is not None else ""
    held = _HELD if options.hold or options.replay is not None else ""
    return " ".join(filter(None, (_PLAIN, said, held, options.append)))
