"""python -m align_jax.data show PATH"""

from align_jax.data.show import main

main()
