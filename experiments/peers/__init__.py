"""The contestants of the benchmark, each a process of its own.

`worker` is what such a process runs, in an environment that may have no
align_jax's requirements; `ours`, `trl` and `tunix` say what a repetition is,
`contest` is the side of the one who asks.
"""
