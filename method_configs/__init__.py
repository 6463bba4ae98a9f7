"""One file per registered method: its TrainerConfig and nothing else."""
