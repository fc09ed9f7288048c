"""The comparison of token mixers in one skeleton, `mmatm.MetaFormer`: what tools/compare_mixers.py does."""
