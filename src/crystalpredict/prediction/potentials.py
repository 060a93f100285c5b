"""Interatomic potentials by name: ASE calculators of packages that contain weights, or of any installed module."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crystalpredict._files import file_sha256
from crystalpredict._safe_path import without_working_directory
from crystalpredict.errors import UsageError, printable, suppress_warnings

NEEDED_METHODS = ("get_potential_energy", "get_forces", "get_stress")
MAX_REASON = 160  # characters of a library's message


def _chgnet(device: str) -> Any:
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(use_device=device)


def _sevenn(device: str) -> Any:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator("7net-0", device=device)


PACKAGED: dict[str, Callable[[str], Any]] = {"chgnet": _chgnet, "sevenn": _sevenn}  # extras have these names


def refuse_missing(name: str) -> None:
    """Raise UsageError if a potential is misnamed, or if its package is not installed.

    Args:
        name: `chgnet`, `sevenn`, or `module:function`.
    """
    module, _ = _module_and_function(name)
    if _spec(name, module) is not None:
        return
    if name in PACKAGED:
        raise UsageError(f"the potential {name} is not installed: pip install 'crystalpredict[{name}]'")
    raise UsageError(
        f"potential {name}: no module {module} is installed; nothing is imported from the working directory"
    )


def identity_of_potential(name: str) -> str:
    """Return the name of a potential with the versions of its package and of ASE, and a digest of its module.

    Args:
        name: of an installed potential, as of `refuse_missing`.
    """
    module, _ = _module_and_function(name)
    packages = [name] if name in PACKAGED else packages_distributions().get(module.split(".")[0], [])
    spec = _spec(name, module)
    origin = Path(spec.origin) if spec and spec.origin else None
    digest = file_sha256(origin)[:16] if origin and origin.is_file() else ""
    words = (name, *sorted({_version(package) for package in packages}), digest, f"ase {_version('ase')}")
    return " ".join(word for word in words if word)


def calculator_of(name: str, device: str) -> Any:
    """Return the ASE calculator of a potential.

    Args:
        name: `chgnet`, `sevenn`, or `module:function`, a function without arguments.
        device: For `chgnet` and `sevenn`.

    Raises:
        UsageError: It cannot be imported, or gives no calculator.
    """
    refuse_missing(name)
    module, function = _module_and_function(name)
    with without_working_directory(), suppress_warnings(), redirect_stdout(io.StringIO()):
        try:
            make: Any = PACKAGED.get(name) or getattr(import_module(module), function, None)
        except (Exception, SystemExit) as error:
            raise UsageError(f"potential {name}: {module} cannot be imported ({reason_of(error)})") from None
        if not callable(make):
            raise UsageError(f"potential {name}: {module} has no function {function}")
        try:
            calculator = make(device) if name in PACKAGED else make()
        except (Exception, SystemExit) as error:
            raise UsageError(f"potential {name}: it cannot be loaded ({reason_of(error)})") from None
    if isinstance(calculator, type) or not all(callable(getattr(calculator, each, None)) for each in NEEDED_METHODS):
        raise UsageError(f"potential {name}: returns {_kind_of(calculator)}, which is no ASE calculator")
    known = getattr(calculator, "implemented_properties", None)
    if isinstance(known, list | tuple) and known and not {"energy", "forces", "stress"} <= set(known):
        raise UsageError(
            f"potential {name}: it does not compute energy, forces and stress, which relaxing a cell needs"
        )
    return calculator


def reason_of(error: BaseException) -> str:
    """Return an error of a library in one line."""
    text = (str(error).strip() or "no message").splitlines()[0]
    return printable(f"{type(error).__name__}: {text[:MAX_REASON]}")


def _module_and_function(name: str) -> tuple[str, str]:
    """Return the module and the function of a potential; for `chgnet` and `sevenn` the package and ""."""
    if name in PACKAGED:
        return name, ""
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise UsageError(
            f"potential {printable(name[:80])!r}: give {', '.join(PACKAGED)} or module:function, a function without "
            "arguments that returns an ASE calculator"
        )
    return module, function


def _spec(name: str, module: str) -> Any:
    """Return the spec of a module; None if it is not installed."""
    with without_working_directory(), suppress_warnings(), redirect_stdout(io.StringIO()):
        try:
            return find_spec(module)
        except ModuleNotFoundError as error:
            if error.name and (module == error.name or module.startswith(f"{error.name}.")):
                return None
            raise UsageError(f"potential {name}: {module} cannot be imported ({reason_of(error)})") from None
        except (Exception, SystemExit) as error:  # a parent package is imported
            raise UsageError(f"potential {name}: {module} cannot be imported ({reason_of(error)})") from None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _kind_of(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return f"{'the class' if isinstance(value, type) else 'an object of type'} {kind.__name__}"
