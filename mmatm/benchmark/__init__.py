"""Speed, memory and precision of ATMNet beside its authors' way and its peers: `python -m mmatm.benchmark`."""
