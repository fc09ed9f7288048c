"""What several parts need: files, downloads, the command line, the environment."""
