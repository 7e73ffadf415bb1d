import torch

torch.set_num_threads(1)  # small networks; more threads only fight over the cores
