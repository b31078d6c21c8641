"""The version of the package that this code is of, also where it lies in a Hub repository as remote code."""

__version__ = "0.1.0"
