"""Where stages run: on this host, as Slurm job arrays, on a Ray cluster."""
