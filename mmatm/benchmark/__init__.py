"""Speed, memory and precision of backbones beside their peers, and of their parts: `python -m mmatm.benchmark`."""
