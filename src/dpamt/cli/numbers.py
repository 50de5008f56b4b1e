"""Numbers that options of several verbs take, with one meaning and one range."""

from dpamt.abi.pages import MAX_PA_LIMIT


def parse_jobs(text: str) -> int:
    """Processes."""
    return _whole(text, 1, 1024)


parse_jobs.__name__ = "number of processes (1 to 1024)"


def parse_seed(text: str) -> int:
    """Where what is random begins."""
    return _whole(text, 0, (1 << 63) - 1)


parse_seed.__name__ = "seed (a whole number from 0 to 2^63 - 1)"


def parse_bits(text: str) -> int:
    """Bits of an address; what a processor has of them the machine checks."""
    return _whole(text, 1, MAX_PA_LIMIT.bit_length() - 1)


parse_bits.__name__ = "number of bits (1 to 52)"


def parse_memory(text: str) -> str:
    """The text of a size of memory, of a machine."""
    from dpamt.errors import InputError
    from dpamt.platform.size import parse_size

    try:
        parse_size(text.partition(",")[0])
    except InputError as error:
        raise ValueError(str(error)) from None
    return text


parse_memory.__name__ = "size (such as 64GiB)"


def _whole(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= (number := int(text[:20])) <= high):
        raise ValueError(text)
    return number
