"""Transports that each break one promise, and the rule that must notice; the other rules must not.

There is a module for each group of rules. Importing this package imports them all.
"""

import pkgutil
from importlib import import_module

from tests.contract.mutants.entry import MUTANTS, Mutant

__all__ = ["MUTANTS", "Mutant"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
