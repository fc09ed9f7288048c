"""Figures of what a model predicts and where its tokens look."""
