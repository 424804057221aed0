"""The manifest options that determine how Gramine manages memory, with Gramine's defaults.

Options, defaults and helper threads are those of Documentation/manifest-syntax.rst.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final, NamedTuple

from laconic.errors import LaconicError

KIB: Final = 1 << 10
#: Gramine's own threads in each enclave: IPC, Async, and one for TLS handshakes.
HELPERS: Final = 3
#: The suffixes of sizes in a manifest.
_UNITS: Final = {"": 1, "K": KIB, "M": KIB**2, "G": KIB**3}
_SIZE: Final = re.compile(r"(\d{1,18})([KMG]?)", re.ASCII)
#: The options that are read, by their path in a manifest.
STACK_SIZE, BRK_SIZE, THREADS = "sys.stack.size", "sys.brk.max_size", "sgx.max_threads"
#: The option that lets pages be added to an enclave, and removed from it, while it runs.
EDMM: Final = "sgx.edmm_enable"


class Settings(NamedTuple):
    """The settings in a manifest. Sizes are in bytes.

    `stack_size` is the size of the first thread's stack, `brk_size` the maximum size of the heap.
    `max_threads` is the initial number of thread slots in an enclave.
    """

    stack_size: int = 256 * KIB
    brk_size: int = 256 * KIB
    max_threads: int = 4

    @property
    def free_slots(self) -> int:
        """Thread slots for the program's threads in addition to the first; Gramine's helpers occupy
        the others."""
        return max(self.max_threads - 1 - HELPERS, 0)


DEFAULTS: Final = Settings()


def read_manifest(path: str) -> tuple[Settings, bool]:
    """Return the settings that the manifest at `path` states, with Gramine's defaults for others,
    and whether it enables EDMM, which is off by default.

    A template is accepted if it is valid TOML. Raises LaconicError if the file cannot be read, is
    not TOML, or has an option with an invalid value.
    """
    manifest = _load(path)
    settings = Settings(
        _size(path, manifest, STACK_SIZE, DEFAULTS.stack_size),
        _size(path, manifest, BRK_SIZE, DEFAULTS.brk_size),
        _threads(path, manifest, DEFAULTS.max_threads),
    )
    return settings, _option(manifest, EDMM) is True


def _load(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise LaconicError(f"the manifest {path} cannot be read, {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LaconicError(
            f"the manifest {path} is not valid TOML, {error}: "
            "pass the output of gramine-manifest, not a template"
        ) from None


def _option(manifest: dict[str, Any], option: str) -> Any:
    value: Any = manifest
    for key in option.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _size(path: str, manifest: dict[str, Any], option: str, default: int) -> int:
    value = _option(manifest, option)
    if value is None:
        return default
    size = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if size is None or not int(size[1]):
        raise LaconicError(
            f'the manifest {path} has {option} = {value!r}: a size is text such as "256K"'
        )
    return int(size[1]) * _UNITS[size[2]]


def _threads(path: str, manifest: dict[str, Any], default: int) -> int:
    value = _option(manifest, THREADS)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise LaconicError(f"the manifest {path} has {THREADS} = {value!r}: give a number above 0")
    return value
