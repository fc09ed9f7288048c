"""Parameters and FLOPs, results of tests, and the papers' tables beside them."""
