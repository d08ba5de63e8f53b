"""Megatron-Core must not be imported before the shim stands, whichever test module is collected first."""

from trainer.parallel import cpu_shim

cpu_shim.install()
