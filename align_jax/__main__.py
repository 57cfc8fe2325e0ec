"""`python -m align_jax`: the command `align`, installed or not."""

from align_jax.tools.cli import main

main()
