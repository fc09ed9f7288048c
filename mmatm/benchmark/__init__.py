"""Speed, memory and precision of ATMNet beside its DeformConv baseline and its peers: `python -m mmatm.benchmark`."""
