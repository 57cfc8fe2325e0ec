"""python -m align_jax.data show PATH"""

from align_jax.tools.show_data import main

main()
