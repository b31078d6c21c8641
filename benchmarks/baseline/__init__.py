"""The published procedure written out plainly: what the benchmarks compare this package with."""
